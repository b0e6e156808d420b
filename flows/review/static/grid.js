// The grid of takes, by prompt. Only the lines in view are in the page; cards are used again.

import {find, make, number, verdict, named} from './api.js';
import * as players from './players.js';

const GAP = 12, HEAD = 44, FOOT = 54, BEYOND = 400;
const FAST = 3, SETTLED_MS = 120; // pixels a millisecond from which on nothing is loaded, until it has been calm so long
const list = find('list');
const lines = new Map(); // index of a line -> its element
const cards = new Map(); // id of a take -> its card
const spareCards = [];
let layout = [], tops = [], places = new Map(), columns = 1, side = 200, height = 200;
let state = {groups: [], current: '', marked: new Set(), playAll: false, metric: ''}, hovered = '';
let on = {open() {}, current() {}, mark() {}};

export const connect = handlers => { on = handlers; };

/** Show these takes: groups is a list of {prompt, takes}. */
export function show(next) {
  state = {...state, ...next};
  place();
  draw(true);
}

/** Where every line lies. Heights are known, so that nothing has to be measured. */
function place() {
  const width = list.clientWidth;
  const least = width < 600 ? 150 : 210;
  columns = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
  side = Math.floor((width - GAP * (columns - 1)) / columns);
  height = Math.round(side * 0.72) + FOOT;
  layout = []; tops = []; places = new Map();
  let top = 0;
  const add = (line, size) => { layout.push(line); tops.push(top); top += size; };
  let position = 0;
  for (const group of state.groups) {
    add({group}, HEAD);
    for (let i = 0; i < group.takes.length; i += columns) {
      const takes = group.takes.slice(i, i + columns);
      for (const take of takes) places.set(take.id, {line: layout.length, position: ++position});
      add({takes}, height + GAP);
    }
  }
  list.style.height = `${top}px`;
  find('empty').hidden = layout.length > 0;
}

/** The first line that ends below a height. */
function lineAt(y) {
  let low = 0, high = tops.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((tops[middle + 1] ?? Infinity) <= y) low = middle + 1; else high = middle;
  }
  return low;
}

/** Put the lines in view into the page, take the others out. fresh: fill those that are there anew, too. */
function draw(fresh = false) {
  const start = -list.getBoundingClientRect().top;
  const first = lineAt(start - BEYOND), end = start + innerHeight + BEYOND;
  const wanted = new Set();
  for (let i = first; i < layout.length && tops[i] < end; i++) wanted.add(i);
  const focused = list.contains(document.activeElement);
  for (const [i, element] of lines) {
    if (wanted.has(i) && (!fresh || holds(element, layout[i]))) continue;
    empty(element);
    if (!wanted.has(i)) { element.remove(); lines.delete(i); }
  }
  for (const i of wanted) {
    let line = lines.get(i);
    if (line && !fresh) continue;
    if (line && holds(line, layout[i])) {
      line.style.height = `${height}px`;
      layout[i].takes.forEach((take, k) => bind(line.children[k], take));
    } else {
      line ||= make('div', {class: 'line'});
      fill(line, layout[i]);
    }
    line.style.transform = `translateY(${tops[i]}px)`;
    if (!lines.has(i)) { lines.set(i, line); list.append(line); }
  }
  if (focused && !list.contains(document.activeElement)) cards.get(state.current)?.open.focus({preventScroll: true});
  watch(start);
}

/** Whether an element shows just these takes already. */
const holds = (element, {takes}) =>
  takes?.length === element.children.length && takes.every((take, k) => element.children[k].take?.id === take.id);

/** Take the cards out of a line, to be used again. */
function empty(line) {
  for (const card of [...line.children]) {
    if (!card.take) continue;
    cards.delete(card.take.id);
    spareCards.push(card);
    card.remove();
  }
}

function fill(line, {group, takes}) {
  line.className = group ? 'line group' : 'line';
  if (group) {
    line.setAttribute('role', 'presentation');
    line.style.height = `${HEAD - 6}px`;
    line.replaceChildren(make('b', {title: group.prompt}, group.prompt), make('span', {class: 'dim small'}, gist(group)));
    return;
  }
  line.setAttribute('role', 'presentation');
  line.style.height = `${height}px`;
  line.replaceChildren(...takes.map(take => bind(spareCards.pop() || newCard(), take)));
}

function gist({takes}) {
  const approved = takes.filter(t => t.verdict === 'approve').length;
  return `${takes.length}${approved ? `, ${approved} approved` : ''}`;
}

function newCard() {
  const card = make('div', {class: 'card', role: 'listitem'});
  card.picture = make('img', {alt: '', decoding: 'async', draggable: false});
  card.what = make('span', {class: 'what'});
  card.open = make('button', {type: 'button', class: 'open', onclick: () => on.open(card.take)}, card.picture, card.what);
  card.seed = make('span'); card.state = make('span', {class: 'tag'}); card.score = make('span', {class: 'dim'});
  card.box = make('input', {type: 'checkbox', onchange: () => on.mark(card.take, card.box.checked)});
  const foot = make('div', {class: 'foot'}, make('div', {}, card.seed, card.state),
    make('div', {}, card.score, make('label', {}, card.box, 'compare')));
  card.append(card.open, foot);
  card.addEventListener('pointerenter', event => { if (event.pointerType === 'mouse') { hovered = card.take.id; watch(); } });
  card.addEventListener('pointerleave', () => { if (hovered === card.take.id) { hovered = ''; watch(); } });
  card.open.addEventListener('focus', () => on.current(card.take));
  return card;
}

function bind(card, take) {
  card.take = take;
  cards.set(take.id, card);
  card.style.width = `${side}px`;
  card.style.height = `${height}px`;
  const [word, colour] = verdict(take);
  const score = state.metric in take.scores ? `${state.metric} ${number(take.scores[state.metric])}` : take.qc === 'rejected' ? 'check not passed' : '';
  const poster = take.poster ? `/poster/${take.video}` : '';
  card.poster = poster;
  paint(card);
  card.what.textContent = take.video ? '' : [take.status, ...take.why].join(': ');
  card.seed.textContent = `seed ${take.seed}`;
  card.state.textContent = `${take.star ? '★ ' : ''}${take.note ? '✎ ' : ''}${word || (take.status === 'ok' ? '' : take.status)}`;
  card.state.className = `tag ${colour || 'dim'}`;
  card.score.textContent = score;
  card.box.checked = state.marked.has(take.id);
  card.box.disabled = !take.video;
  card.box.setAttribute('aria-label', `compare ${named(take)}`);
  card.open.setAttribute('aria-label', `${named(take)}${take.video ? '' : `: ${card.what.textContent}`}${word ? `, ${word}` : ''}${take.star ? ', starred' : ''}`);
  card.setAttribute('aria-setsize', places.size);
  card.setAttribute('aria-posinset', places.get(take.id).position);
  card.classList.toggle('current', take.id === state.current);
  return card;
}

/** Show a card's picture: while the list rushes by, only one that is there already. */
function paint({picture, poster}) {
  if (picture.getAttribute('src') !== poster) {
    if (poster && !fast) picture.src = poster; else picture.removeAttribute('src');
  }
  picture.hidden = !picture.hasAttribute('src');
}

/** Which videos there are now: what the mouse is on, the current one, then what is in view. */
function watch(start = -list.getBoundingClientRect().top) {
  const seen = [...cards.values()].filter(card => {
    const top = tops[places.get(card.take.id)?.line];
    return card.take.video && top + height > start && top < start + innerHeight;
  });
  const plays = card => card.take.id === hovered || card.take.id === state.current || state.playAll;
  const wanted = seen.filter(card => (plays(card) || !card.take.poster) && (!fast || players.playing(card.take.id)));
  wanted.sort((a, b) => rank(a) - rank(b));
  players.show(wanted.map(card => ({id: card.take.id, src: `/media/${card.take.video}`, host: card.open, play: plays(card)})));
}

const rank = ({take}) => take.id === hovered ? 0 : take.id === state.current ? 1 : 2;

/** Make a take the current one, and bring it into view. */
export function go(id, focus = true) {
  cards.get(state.current)?.classList.remove('current');
  state.current = id;
  const at = places.get(id);
  if (!at) return watch();
  const bar = find('bar').offsetHeight, top = list.getBoundingClientRect().top + tops[at.line];
  if (top < bar + HEAD) scrollBy(0, top - bar - HEAD);
  else if (top + height > innerHeight) scrollBy(0, top + height - innerHeight + GAP);
  draw();
  cards.get(id)?.classList.add('current');
  if (focus) cards.get(id)?.open.focus({preventScroll: true});
}

let fast = false, at = 0, before = 0, settling = 0;

/** How fast the list goes by; once it is calm, what is in view is loaded. */
function clock() {
  const now = performance.now(), way = Math.abs(scrollY - at);
  fast = way / Math.max(1, now - before) > FAST && now - before < SETTLED_MS;
  [at, before] = [scrollY, now];
  clearTimeout(settling);
  settling = setTimeout(() => { fast = false; cards.forEach(paint); watch(); }, SETTLED_MS);
}

let due = false;
function later() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; draw(); });
}
addEventListener('scroll', () => { clock(); later(); }, {passive: true});
let width = 0;
new ResizeObserver(() => {
  if (width === list.clientWidth) return later();
  width = list.clientWidth;
  place();
  draw(true);
}).observe(document.body);
