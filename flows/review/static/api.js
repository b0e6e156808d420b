// What the page asks the server, and small things that every part of it needs.

export const find = id => document.getElementById(id);

/** An element with attributes and children; texts are texts, never markup. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key === 'class') element.className = value;
    else if (key in element && key !== 'list') element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined && child !== ''));
  return element;
}

async function answer(response) {
  if (response.ok) return response.json();
  const text = await response.text();
  let said = text;
  try { said = JSON.parse(text).error || text; } catch { /* plain text */ }
  throw new Error(said || `the server answers ${response.status}`);
}

export const get = path => fetch(path).then(answer);

export const post = (path, body) =>
  fetch(path, {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)}).then(answer);

let hiding = 0;
/** Say something for some seconds. */
export function say(text) {
  find('toast').textContent = text;
  clearTimeout(hiding);
  hiding = setTimeout(() => { find('toast').textContent = ''; }, 5000);
}

export const number = value => Math.abs(value) >= 1000 ? Math.round(value).toLocaleString('en') : String(+value.toPrecision(4));
export const counted = (count, noun) => `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;
export const when = text => text ? text.slice(0, 16).replace('T', ' ') + ' UTC' : '';

/** What is said of a take's choice, in a word, and its colour. */
export function verdict(take) {
  if (take.conflict) return ['conflict', 'bad'];
  if (take.verdict === 'approve') return ['approved', 'good'];
  if (take.verdict === 'reject') return ['rejected', 'bad'];
  return ['', ''];
}

/** What a take is called. */
export const named = take => `${take.prompt}, seed ${take.seed}`;
