// How campaigns go on: progress, cost, the time that is left.

import {find, get, make, number} from './api.js';

const seconds = s => s >= 3600 ? `${number(s / 3600)} h` : s >= 100 ? `${number(s / 60)} min` : `${s.toFixed(1)} s`;

function card(c) {
  const cost = [`${seconds(c.core_seconds)} of cores`, c.gpu_seconds ? `${seconds(c.gpu_seconds)} of GPUs` : ''].filter(Boolean).join(', ');
  const gpu = c.gpu_seconds > 0, head = ['step', 'done', 'to do', 'failed', 'core time', ...(gpu ? ['GPU time'] : [])];
  const table = make('table', {}, make('tr', {}, ...head.map(h => make('th', {}, h))), ...c.steps.map(s => make('tr', {},
    make('td', {}, s.step), make('td', {}, String(s.done)), make('td', {}, s.todo === null ? '?' : String(s.todo)), make('td', {}, String(s.failed)),
    make('td', {}, seconds(s.core_seconds)), gpu ? make('td', {}, seconds(s.gpu_seconds)) : null)));
  return make('div', {class: 'campaign'},
    make('p', {}, make('b', {}, c.campaign), ` ${c.status}${c.left ? `, ${c.left}` : ''}`),
    make('progress', {max: Math.max(1, c.takes), value: c.done, 'aria-label': `videos of ${c.campaign}`}),
    make('p', {class: 'small dim'}, `${c.done.toLocaleString('en')} of ${c.takes.toLocaleString('en')} takes have their video; cost ${cost}; run ${c.run}`),
    c.error ? make('p', {class: 'small bad'}, c.error) : null,
    make('div', {class: 'wide', tabIndex: 0, role: 'region', 'aria-label': `steps of ${c.campaign}`}, table));
}

/** Show how campaigns stand now. */
export async function refresh() {
  const found = await get('/api/campaigns');
  const running = found.filter(c => c.status === 'running');
  find('campaigns-gist').textContent = running.length
    ? running.map(c => `${c.campaign}: ${c.done} of ${c.takes}${c.left ? `, ${c.left}` : ''}`).join('; ')
    : `${found.length}, none running`;
  if (find('campaigns-box').open) find('campaigns').replaceChildren(...found.map(card));
}

find('campaigns-box').addEventListener('toggle', () => refresh().catch(() => {}));
