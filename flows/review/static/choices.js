// Choosing: what is sent, and how it is taken back.

import {find, post, say, counted} from './api.js';

const done = []; // what can be undone, the last one last: {id, choice, before}
let taken = () => {};

/** taken is called with the records that the server answers. */
export const connect = handler => { taken = handler; };

async function send(take, choice, note = '') {
  const who = find('who').value.trim();
  const found = await post('/api/choose', {takes: [{id: take.id, heads: take.heads}], choice, note, who});
  taken(found.takes);
}

/** Choose for one take; it can be undone. */
export async function choose(take, choice, note = '') {
  const before = {verdict: take.verdict, star: take.star, note: take.note};
  done.push({id: take.id, choice, before});
  try {
    await send(take, choice, note);
  } catch (error) {
    done.pop();
    say(`Not kept: ${error.message}`);
  }
}

/** Take the last choice back: by another one, which says what was before. */
export async function undo(find_take) {
  const last = done.pop();
  const take = last && find_take(last.id);
  if (!take) return say(last ? 'That take is no longer here' : 'There is nothing to undo');
  const {choice, before} = last;
  try {
    if (choice === 'star' || choice === 'unstar') await send(take, before.star ? 'star' : 'unstar');
    else if (choice !== 'note') await send(take, before.verdict || 'clear');
    else if (before.note) await send(take, 'note', before.note);
    else return say('A first note cannot be taken back; write another one');
    say(`Undone${done.length ? `; ${counted(done.length, 'more choice')} can be` : ''}`);
  } catch (error) {
    done.push(last);
    say(`Not undone: ${error.message}`);
  }
  return last.id;
}
