// Elements. Whatever comes from people or from the server goes in as text, never as markup.

export const $ = (id) => document.getElementById(id);

/** An element with a class and children; strings become text. */
export function el(name, className = "", ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Show an element with these words, or hide it where there are none. */
export function say(node, ...children) {
  node.replaceChildren(...children.filter(Boolean));
  node.hidden = node.childNodes.length === 0;
}

/** A bar from 0 to `share`, and a second part of it from there to `share + rest`; `mark` is a line across. */
export function bar({ share, rest = 0, mark = null }) {
  const track = el("span", "track");
  track.setAttribute("aria-hidden", "true");
  track.append(part("fill", share));
  if (rest > 0) track.append(part("fill doubtful", rest));
  if (mark !== null) {
    const line = el("span", "mark");
    line.style.insetInlineStart = place(mark);
    track.append(line);
  }
  return track;
}

function part(className, share) {
  const node = el("span", className);
  node.style.width = place(share);
  return node;
}

const place = (share) => `${(100 * Math.min(Math.max(share, 0), 1)).toFixed(2)}%`;

/** A list of which the first are shown, and a button for the others. */
export function list(rows, first, more, fewer) {
  const body = el("ol", "bars", ...rows);
  const late = rows.slice(first);
  if (late.length === 0) return [body];
  const button = el("button", "", more);
  button.type = "button";
  const show = (all) => {
    for (const row of late) row.hidden = !all;
    button.textContent = all ? fewer : more;
    button.setAttribute("aria-expanded", String(all));
  };
  button.addEventListener("click", () => show(button.getAttribute("aria-expanded") !== "true"));
  show(false);
  return [body, button];
}
