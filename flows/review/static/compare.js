// Two to four takes side by side, at the same time of their videos.

import {find, make, verdict, named} from './api.js';
import * as players from './players.js';

const dialog = find('compare'), slider = find('c-time'), FAR = 0.06;
let videos = [], frame = 1 / 24, waiting = 0;

/** Show these takes; act(take, choice) chooses. */
export function open(takes, act) {
  players.stop(true);
  frame = 1 / Math.max(1, ...takes.map(t => t.fps || 24));
  videos = takes.map(take => make('video', {src: `/media/${take.video}`, muted: true, loop: false, playsInline: true, preload: 'auto', 'aria-label': named(take)}));
  find('c-body').replaceChildren(...takes.map((take, i) => make('figure', {class: 'side', 'data-take': take.id},
    videos[i], make('p', {}, take.prompt), make('p', {class: 'small dim'}, `seed ${take.seed}`), buttons(take, act))));
  dialog.showModal();
  play();
  tick();
}

function buttons(take, act) {
  const word = make('span', {class: 'tag'}), row = make('div', {class: 'row'});
  const label = now => { [word.textContent, word.className] = [verdict(now)[0], `tag ${verdict(now)[1]}`]; };
  const button = (text, choice) => make('button', {type: 'button', onclick: async () => label(await act(take.id, choice))}, text);
  row.append(button('Approve', 'approve'), button('Reject', 'reject'), button('Star', 'star'), word);
  label(take);
  return row;
}

const length = () => Math.max(0.001, ...videos.map(v => v.duration || 0));
const time = () => Math.max(0, ...videos.map(v => v.currentTime));
const moving = () => videos.some(v => !v.paused && !v.ended);

function play() {
  find('c-play').textContent = 'Pause';
  for (const video of videos) if (!video.ended) video.play().catch(() => {});
}

function pause() {
  find('c-play').textContent = 'Play';
  for (const video of videos) video.pause();
  seek(videos[0]?.currentTime ?? 0);
}

/** All videos to this time; shorter ones stay at their end. */
function seek(to) {
  for (const video of videos) video.currentTime = Math.min(Math.max(0, to), video.duration || 0);
}

/** Bring those that are off back to the first that plays, and begin again once all have ended. */
function tick() {
  cancelAnimationFrame(waiting);
  if (!dialog.open) return;
  const lead = videos.find(v => !v.paused && !v.ended);
  if (lead) {
    for (const video of videos) {
      const to = Math.min(lead.currentTime, video.duration || 0);
      if (video !== lead && !video.ended && !video.seeking && Math.abs(video.currentTime - to) > FAR) video.currentTime = to;
    }
  } else if (videos.length && videos.every(v => v.ended)) {
    seek(0);
    play();
  }
  slider.value = Math.round(1000 * time() / length());
  find('c-clock').textContent = `${time().toFixed(2)} s`;
  waiting = requestAnimationFrame(tick);
}

function step(frames) {
  pause();
  seek((videos[0]?.currentTime ?? 0) + frames * frame);
}

find('c-play').addEventListener('click', () => moving() ? pause() : play());
find('c-back').addEventListener('click', () => step(-1));
find('c-on').addEventListener('click', () => step(1));
slider.addEventListener('input', () => { pause(); seek(slider.value / 1000 * length()); });
dialog.addEventListener('keydown', event => {
  if (event.target.matches('input, button')) return;
  if (event.key === ' ') { event.preventDefault(); find('c-play').click(); }
  if (event.key === ',' || event.key === '.') step(event.key === ',' ? -1 : 1);
});
dialog.addEventListener('close', () => {
  for (const video of videos) { video.pause(); video.removeAttribute('src'); video.load(); }
  videos = [];
  find('c-body').replaceChildren();
  players.stop(false);
});
