// Sends every answer as soon as it is given; without this script the page's buttons do.
"use strict";
const form = document.querySelector("form[data-save]");
const saved = document.getElementById("saved");
let waiting = Promise.resolve();
let unsent = 0;

function keep(field) {
  const body = new URLSearchParams({ form: form.elements.form.value, [field.name]: field.value });
  saved.textContent = "Saving…";
  unsent += 1;
  waiting = waiting // one after the other: an earlier answer must not arrive after a later one
    .then(() => fetch(form.dataset.save, { method: "POST", body, keepalive: true }))
    .then((answer) => {
      if (answer.status === 409) window.location.assign("/study?note=sent");
      if (!answer.ok) throw new Error(answer.status);
      unsent -= 1;
      if (unsent === 0) saved.textContent = "Saved.";
    })
    .catch(() => { saved.textContent = "Not saved yet: use the buttons."; });
}

form.addEventListener("change", (event) => keep(event.target));
