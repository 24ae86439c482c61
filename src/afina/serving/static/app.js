// The page of `afina serve`.
import { Failure, hasKey, model, setKey } from "./api.js";
import { $, say } from "./dom.js";
import { renderFacts } from "./facts.js";
import { explain } from "./failures.js";
import { Upload } from "./file.js";
import { choose, preferred, t, translate } from "./locale.js";
import { Message } from "./message.js";

let facts = null; // what /v1/model answered
let failure = null; // why it did not
let keyWrong = false;

const asking = { facts: () => facts, onKey: () => askForKey() };
const message = new Message({ ...asking, onModel });
const upload = new Upload(asking);

/** Ask what the model is, anew. */
async function loadFacts() {
  try {
    facts = await model();
    failure = null;
    $("key-form").hidden = true;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    facts = null;
    failure = error.status === 401 ? null : error;
    if (error.status === 401) askForKey();
  }
  render();
}

/** An answer came: from a model that is not the one on the page, perhaps. */
function onModel({ sha256 }) {
  if (facts?.sha256 !== sha256) loadFacts();
}

function askForKey() {
  if (hasKey() || $("key-form").hidden) keyWrong = hasKey();
  setKey(null);
  $("key-form").hidden = false;
  renderKey();
  // Not from under the hands of who is writing.
  if (document.activeElement !== $("text")) $("key").focus();
}

function renderKey() {
  say($("key-error"), keyWrong && t("key_wrong"));
}

$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const value = $("key").value.trim();
  // Nothing else can be in a header, so it is no key.
  if (!/^[!-~]+$/.test(value)) {
    keyWrong = true;
    renderKey();
    return;
  }
  setKey(value);
  $("key").value = "";
  await loadFacts();
  if (!facts) return;
  $("text").focus();
  message.again();
  upload.again();
});

for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    choose(button.dataset.language, true);
    render();
  });
}

$("card-close").addEventListener("click", () => $("card").close());

function render() {
  translate();
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === document.documentElement.lang));
  }
  say($("model-error"), ...(failure ? explain(failure) : []));
  $("made-by").textContent = t("made_by");
  renderKey();
  renderFacts(facts);
  message.render();
  upload.render();
}

choose(preferred());
render();
loadFacts();
