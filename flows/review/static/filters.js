// Which takes are shown, and in which order.

import {find} from './api.js';

const IDS = ['text', 'campaign', 'verdict', 'status', 'qc', 'tag', 'metric', 'min', 'max', 'order'];
const value = id => find(`f-${id}`).value;

/** Call `changed` soon after a filter was changed. */
export function connect(changed) {
  let due = 0;
  const soon = () => { clearTimeout(due); due = setTimeout(changed, 80); };
  for (const id of [...IDS, 'play']) find(`f-${id}`).addEventListener('input', soon);
  find('b-reset').addEventListener('click', () => { for (const id of IDS) find(`f-${id}`).value = ''; changed(); });
  find('b-filters').addEventListener('click', () => {
    find('filters').hidden = !find('filters').hidden;
    find('b-filters').setAttribute('aria-expanded', String(!find('filters').hidden));
  });
}

/** Offer what the takes have. */
export function offer(takes) {
  const all = {campaign: new Set(), status: new Set(), tag: new Set(), metric: new Set()};
  for (const take of takes) {
    all.campaign.add(take.campaign);
    all.status.add(take.status);
    for (const tag of take.tags) all.tag.add(tag);
    for (const name in take.scores) all.metric.add(name);
  }
  for (const [id, words] of Object.entries(all)) {
    const select = find(`f-${id}`), sorted = [...words].sort();
    if (select.options.length - 1 === sorted.length && sorted.every((w, i) => select.options[i + 1].value === w)) continue;
    const before = select.value;
    while (select.options.length > 1) select.remove(1);
    for (const word of sorted) select.add(new Option(word, word));
    select.value = words.has(before) ? before : '';
  }
}

function verdictFits(take, wanted) {
  if (!wanted) return true;
  if (wanted === 'none') return !take.verdict && !take.conflict;
  return wanted === 'star' ? take.star : wanted === 'conflict' ? take.conflict : take.verdict === wanted;
}

/** The takes that fit, in groups of one prompt. */
export function apply(takes) {
  const words = value('text').toLowerCase().split(/\s+/).filter(Boolean);
  const [campaign, chosen, status, qc, tag, metric, order] = ['campaign', 'verdict', 'status', 'qc', 'tag', 'metric', 'order'].map(value);
  const least = value('min') === '' ? -Infinity : +value('min'), most = value('max') === '' ? Infinity : +value('max');
  const fits = take =>
    (!campaign || take.campaign === campaign) && (!status || take.status === status) && (!qc || take.qc === qc) &&
    (!tag || take.tags.includes(tag)) && verdictFits(take, chosen) &&
    (!metric || (metric in take.scores && take.scores[metric] >= least && take.scores[metric] <= most)) &&
    (!words.length || words.every(word => take.prompt.toLowerCase().includes(word)));
  const groups = new Map();
  for (const take of takes) {
    if (!fits(take)) continue;
    const key = `${take.campaign}\n${take.prompt}`;
    if (!groups.has(key)) groups.set(key, {prompt: take.prompt, takes: []});
    groups.get(key).takes.push(take);
  }
  const found = [...groups.values()];
  if (metric && order) {
    const sign = order === 'high' ? -1 : 1;
    for (const group of found) group.takes.sort((a, b) => sign * (a.scores[metric] - b.scores[metric]));
  }
  return found;
}
