// The language of the page, and how words and numbers are written in it.
import { WORDS } from "./words.js";

const KEPT = "afina.language";

let language = "es";

/** The language to start with: the one chosen before, else the browser's first that the page has, else English. */
export function preferred() {
  const kept = read(KEPT);
  if (kept in WORDS) return kept;
  for (const tag of navigator.languages ?? [navigator.language]) {
    const name = tag.toLowerCase().split("-")[0];
    if (name in WORDS) return name;
  }
  return "en";
}

/** Write in this language from now on; `keep`: in later visits too. */
export function choose(name, keep = false) {
  language = name;
  if (keep) {
    try {
      localStorage.setItem(KEPT, name);
    } catch {
      // Storage is forbidden: the choice lasts as long as the page.
    }
  }
}

function read(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** The words of a key with values in their places. */
export function t(key, values = {}) {
  return WORDS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** A number of things, in the singular or the plural. */
export function count(key, number, values = {}) {
  return t(`${key}.${number === 1 ? "one" : "many"}`, { n: integer(number), ...values });
}

export function integer(number) {
  return decimal(number, 0);
}

export function decimal(number, digits) {
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: "always" };
  return new Intl.NumberFormat(language, options).format(number);
}

/** How many out of 100 a share is; what is not quite none or all is neither 0 nor 100. */
export function outOfHundred(share) {
  return Math.min(Math.max(Math.round(100 * share), share > 0 ? 1 : 0), share < 1 ? 99 : 100);
}

/** A share as a percentage, 84,0 % or 84.0%; what is not quite none or all is not written as none or all. */
export function percent(share, digits = 1) {
  const least = 10 ** -digits;
  const value = 100 * share;
  if (value > 0 && value < least) return `< ${sign(decimal(least, digits))}`;
  if (value < 100 && value > 100 - least) return `> ${sign(decimal(100 - least, digits))}`;
  return sign(decimal(value, digits));
}

/** A percentage without decimals where it has none: 95 %, but 92,6 %. */
export function shortPercent(share) {
  const whole = Math.abs(100 * share - Math.round(100 * share)) < 1e-6;
  return percent(share, whole ? 0 : 1);
}

function sign(number) {
  return language === "es" ? `${number}\u202f%` : `${number}%`;
}

/** A size in bytes as people read it. */
export function size(bytes) {
  if (bytes < 1000) return `${integer(bytes)} B`;
  if (bytes < 1_000_000) return `${decimal(bytes / 1000, 0)} kB`;
  return `${decimal(bytes / 1_000_000, 1)} MB`;
}

export function date(text) {
  const when = new Date(text);
  return isNaN(when) ? text : new Intl.DateTimeFormat(language, { dateStyle: "long" }).format(when);
}

/** Put the page's words where `data-t` names them. */
export function translate() {
  document.documentElement.lang = language;
  document.title = `${t("title")} – afina`;
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
}
