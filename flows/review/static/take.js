// One take: large, with its checks, reasons, choices and lineage; and campaigns that ask for more of it.

import {find, get, make, number, post, say, verdict, when} from './api.js';
import * as players from './players.js';

const dialog = find('take'), CHOSEN = {approve: 'approved', reject: 'rejected', clear: 'took the choice back', star: 'starred', unstar: 'took the star away', note: 'wrote a note'};
let shown = '';

export const current = () => dialog.open ? shown : '';

/** Show a take; act(word) does what a key would. */
export function open(take, act) {
  players.stop(true);
  const changed = shown !== take.id || !dialog.open;
  shown = take.id;
  find('t-title').textContent = take.prompt;
  const word = (text, key) => make('button', {type: 'button', onclick: () => act(key)}, text);
  find('t-keys').replaceChildren(word('‹ Previous', 'k'), word('Approve', 'a'), word('Reject', 'r'),
    word(take.star ? 'Unstar' : 'Star', 's'), word('Note', 'n'), word('Undo', 'u'), word('Next ›', 'j'));
  if (changed) {
    const video = take.video ? make('video', {src: `/media/${take.video}`, muted: true, loop: true, playsInline: true, controls: true, autoplay: true, 'aria-label': take.prompt}) : null;
    find('t-body').replaceChildren(...[video, make('div', {id: 't-facts'}), make('div', {id: 't-more'})].filter(Boolean));
  }
  find('t-facts').replaceChildren(...facts(take));
  if (!dialog.open) dialog.showModal();
  get(`/api/take/${take.id}`).then(found => { if (shown === take.id && dialog.open) fill(take, found, changed); }).catch(error => say(error.message));
}

function facts(take) {
  const [word, colour] = verdict(take);
  const size = take.width ? `${take.width}×${take.height}, ${take.frames} frames at ${number(take.fps)} fps` : '';
  const lines = [
    make('p', {class: 'small dim'}, [`seed ${take.seed}`, size, take.campaign && `campaign ${take.campaign}`].filter(Boolean).join(' · ')),
    make('p', {}, make('span', {class: `tag ${colour}`}, word || 'not chosen yet'), take.star ? ' ★' : '', take.note ? ` “${take.note}”` : ''),
  ];
  if (take.conflict) lines.push(make('p', {class: 'bad'}, 'Two people chose at once and disagree: your choice settles it.'));
  if (take.earlier) lines.push(make('p', {class: 'small'}, `The video is of the earlier run ${take.earlier}.`));
  if (take.negative) lines.push(make('p', {class: 'small dim'}, `not: ${take.negative}`));
  if (take.tags.length) lines.push(make('p', {class: 'small dim'}, `tags: ${take.tags.join(', ')}`));
  if (take.status !== 'ok') lines.push(make('p', {}, make('b', {}, take.status), take.why.length ? `: ${take.why.join('; ')}` : ''));
  for (const fault of take.faults) lines.push(make('p', {class: 'small bad'}, fault));
  const scores = Object.entries(take.scores);
  if (scores.length) lines.push(make('h3', {}, `Checks${take.qc ? take.qc === 'ok' ? ': passed' : ': not passed' : ''}`),
    make('table', {}, ...scores.map(([name, value]) => make('tr', {}, make('td', {}, name), make('td', {}, number(value))))));
  return lines;
}

function fill(take, found, changed) {
  const reviews = found.reviews.map(r => make('p', {class: r.stands ? 'small' : 'small dim'},
    `${when(r.at)}, ${r.who}: ${CHOSEN[r.choice] || r.choice}${r.note ? ` “${r.note}”` : ''}${r.stands ? '' : ' (replaced)'}`));
  const settings = Object.entries(found.settings).map(([k, v]) => `${k} ${v}`).concat(found.pictures.map(p => `from ${p}`));
  const parts = [make('h3', {}, 'Choices'), ...(reviews.length ? reviews : [make('p', {class: 'small dim'}, 'none yet')])];
  if (!changed && find('t-choices')) return find('t-choices').replaceChildren(...parts);
  find('t-more').replaceChildren(make('div', {id: 't-choices'}, ...parts), ...forms(take),
    make('h3', {}, 'Settings of the take'), make('p', {class: 'small'}, settings.join(' · ') || 'none of its own'),
    make('h3', {}, 'Lineage'), make('pre', {tabIndex: 0}, found.lineage.join('\n')));
}

function forms(take) {
  const seeds = make('input', {type: 'number', min: 1, max: 1000, value: 4, id: 'more-seeds'});
  const words = make('input', {type: 'text', placeholder: 'guidance=4 base.sampling.steps=20', id: 'more-setting', size: 30});
  return [make('h3', {}, 'More of it'),
    make('div', {class: 'row'}, make('label', {}, 'new seeds', seeds),
      make('button', {type: 'button', onclick: () => ask({takes: [take.id], what: 'seeds', seeds: +seeds.value}, 'More seeds of this')}, 'More seeds of this…')),
    make('div', {class: 'row'}, make('label', {}, 'setting', words),
      make('button', {type: 'button', onclick: () => ask({takes: [take.id], what: 'setting', settings: words.value}, 'This seed with another setting')}, 'This seed with another setting…'))];
}

let file = '';
/** Ask for a campaign file, and show it. */
export async function ask(body, title) {
  let found;
  try { found = await post('/api/campaign', body); } catch (error) { return say(error.message); }
  URL.revokeObjectURL(file);
  find('m-title').textContent = title;
  find('m-words').textContent = 'This page starts no render. What is there already is not made again.' + (body.what === 'promote'
    ? ' The file asks for the approved takes, through all stages. If the campaign has a gate with review: true, you can also run its own command again: it goes on with what is approved.' : '');
  find('m-remarks').replaceChildren(...found.remarks.map(text => make('li', {class: 'bad'}, text)));
  find('m-command').textContent = found.command;
  find('m-text').textContent = found.text;
  file = URL.createObjectURL(new Blob([found.text], {type: 'application/yaml'}));
  Object.assign(find('m-save'), {href: file, download: found.name});
  find('m-copy').onclick = () => navigator.clipboard.writeText(found.command).then(() => say('Copied'), () => say('Copying is not allowed here; mark the text'));
  find('more').showModal();
}

dialog.addEventListener('close', () => { shown = ''; find('t-body').replaceChildren(); players.stop(false); });
