// The page as a whole: keeps the takes, follows the store, and does what keys and buttons say.

import {counted, find, get, say} from './api.js';
import * as campaigns from './campaigns.js';
import * as choices from './choices.js';
import * as compare from './compare.js';
import * as filters from './filters.js';
import * as grid from './grid.js';
import * as players from './players.js';
import * as take from './take.js';

const POLL = 3000, MOST_COMPARED = 4;
const takes = new Map(), marked = new Set();
let version = 0, notes = [], sorted = [], groups = [], order = [], current = '';

function render() {
  groups = filters.apply(sorted);
  order = groups.flatMap(group => group.takes.map(t => t.id));
  grid.show({groups, current, marked, metric: find('f-metric').value, playAll: find('f-play').checked});
  const all = takes.size, some = order.length, approved = sorted.filter(t => t.verdict === 'approve').length;
  const conflicts = sorted.filter(t => t.conflict).length;
  find('count').textContent = (some === all ? counted(all, 'take') : `${some.toLocaleString('en')} of ${counted(all, 'take')}`) +
    `, ${approved.toLocaleString('en')} approved` + (conflicts ? `, ${counted(conflicts, 'conflict')}` : '') +
    notes.map(note => `; ${note}`).join('');
  mark();
}

function mark() {
  for (const id of marked) if (!takes.get(id)?.video) marked.delete(id);
  find('b-compare').disabled = marked.size < 2;
  find('b-compare').textContent = marked.size ? `Compare (${marked.size})` : 'Compare';
}

/** Take records over. */
function put(records, gone = []) {
  for (const record of records) takes.set(record.id, record);
  for (const id of gone) takes.delete(id);
  sorted = [...takes.values()].sort((a, b) => a.order - b.order);
  filters.offer(sorted);
  render();
  const shown = takes.get(take.current());
  if (shown && records.some(r => r.id === shown.id)) take.open(shown, act);
}

async function follow() {
  try {
    const found = await get(`/api/takes?since=${version}`);
    ({version, notes} = found);
    if (found.takes.length || found.gone.length || !takes.size) put(found.takes, found.gone);
    await campaigns.refresh();
  } catch (error) {
    say(error instanceof TypeError ? 'The server does not answer; is `rushes review` still running?' : error.message);
  }
}

function go(id) {
  if (!id) return;
  current = id;
  const over = take.current();
  grid.go(id, !over && !find('compare').open);
  if (over && over !== id) take.open(takes.get(id), act);
}

const beside = (id, steps) => order[Math.min(order.length - 1, Math.max(0, order.indexOf(id) + steps))];

async function decide(choice, note) {
  const chosen = takes.get(take.current() || current);
  if (!chosen) return say('Choose a take first: j goes to the first one');
  const at = order.indexOf(chosen.id), next = order[at + 1];
  await choices.choose(chosen, choice, note);
  if ((choice === 'approve' || choice === 'reject') && next) go(next);
}

/** What a key does. */
function act(key) {
  const here = takes.get(take.current() || current);
  switch (key) {
    case 'j': case 'ArrowRight': return go(current ? beside(current, 1) : order[0]);
    case 'k': case 'ArrowLeft': return go(current ? beside(current, -1) : order[0]);
    case 'a': return decide('approve');
    case 'r': return decide('reject');
    case 's': return decide(here?.star ? 'unstar' : 'star');
    case 'n': return here ? write(here) : undefined;
    case 'u': return choices.undo(id => takes.get(id)).then(go);
    case 'c': return here && toggle(here, !marked.has(here.id));
    case 'C': return side();
    case 'Enter': return here && take.open(here, act);
    case '/': return find('f-text').focus();
    case '?': return find('help').showModal();
  }
}
const KEYS = new Set(['j', 'ArrowRight', 'k', 'ArrowLeft', 'a', 'r', 's', 'n', 'u', 'c', 'C', 'Enter', '/', '?']);

/** Ask for a note on a take. */
function write(which) {
  find('n-what').textContent = `${which.prompt}, seed ${which.seed}`;
  find('n-text').value = which.note;
  find('n-keep').onclick = () => {
    const text = find('n-text').value.trim();
    find('note').close();
    if (text && text !== takes.get(which.id).note) choices.choose(takes.get(which.id), 'note', text);
  };
  find('note').showModal();
}

function toggle(which, wanted) {
  if (wanted && !which.video) say('That take has no video yet');
  else if (wanted && marked.size >= MOST_COMPARED) say(`At most ${MOST_COMPARED} takes can be compared`);
  else if (wanted) marked.add(which.id);
  else marked.delete(which.id);
  render();
}

function side() {
  if (marked.size < 2) return say('Mark two to four takes first, with their box or with c');
  compare.open([...marked].map(id => takes.get(id)), async (id, choice) => {
    await choices.choose(takes.get(id), choice);
    return takes.get(id);
  });
}

function promote() {
  const approved = order.filter(id => takes.get(id).verdict === 'approve');
  if (!approved.length) return say('No take that is shown is approved');
  take.ask({takes: approved, what: 'promote'}, `Promote ${counted(approved.length, 'approved take')}`);
}

addEventListener('keydown', event => {
  const typing = event.target.matches('input:not([type=checkbox]), select, textarea');
  const button = event.target.matches('button, a, summary, video') && !event.target.matches('.open');
  if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
  if (find('more').open || find('note').open || find('help').open || find('compare').open) return;
  if ((event.key === 'Enter' || event.key === ' ') && (button || event.target.matches('input'))) return;
  if (event.target.matches('.open') && event.key === 'Enter') return; // its click opens it
  if (event.key === ' ' && !take.current()) {
    const video = players.playing(current);
    if (video) { event.preventDefault(); if (video.paused) video.play(); else video.pause(); }
  } else if (KEYS.has(event.key)) {
    event.preventDefault();
    act(event.key);
  }
});

grid.connect({
  open: which => { current = which.id; take.open(which, act); },
  current: which => { if (current !== which.id) { current = which.id; grid.go(current, false); } },
  mark: toggle,
});
choices.connect(records => put(records));
filters.connect(render);
find('b-compare').addEventListener('click', side);
find('b-promote').addEventListener('click', promote);
find('b-help').addEventListener('click', () => find('help').showModal());
for (const button of document.querySelectorAll('[data-close]')) button.addEventListener('click', () => button.closest('dialog').close());
const kept = 'rushes-who';
find('who').value = localStorage.getItem(kept) || document.body.dataset.who;
find('who').addEventListener('change', () => localStorage.setItem(kept, find('who').value.trim()));

async function forever() {
  for (;;) {
    if (!document.hidden) await follow();
    await new Promise(done => setTimeout(done, POLL));
  }
}
forever();
