// Videos of the grid: at most MOST of them exist and hold a file, those that are looked at.

export const MOST = 12;
const videos = new Map(); // id of a take -> its video
const spare = [];
let stopped = false;

function release(id) {
  const video = videos.get(id);
  videos.delete(id);
  video.pause();
  video.removeAttribute('src');
  video.load(); // lets go of what was loaded
  video.remove();
  spare.push(video);
}

function take() {
  const video = spare.pop() || document.createElement('video');
  Object.assign(video, {muted: true, loop: true, playsInline: true, tabIndex: -1});
  video.setAttribute('aria-hidden', 'true');
  return video;
}

/** Show these videos, the most wanted first: {id, src, host, play}. All others are let go of. */
export function show(wanted) {
  const kept = stopped ? [] : wanted.slice(0, MOST);
  const ids = new Set(kept.map(w => w.id));
  for (const id of [...videos.keys()]) if (!ids.has(id)) release(id);
  for (const {id, src, host, play} of kept) {
    let video = videos.get(id);
    if (!video) {
      video = take();
      video.preload = play ? 'auto' : 'metadata';
      video.src = src;
      videos.set(id, video);
    }
    if (video.parentElement !== host) host.append(video);
    if (play && video.paused) video.play().catch(() => {}); // it was let go of meanwhile
    if (!play && !video.paused) video.pause();
  }
}

/** While something lies over the grid, it shows no videos. */
export function stop(over) {
  stopped = over;
  if (over) show([]);
}

export const playing = id => videos.get(id);
