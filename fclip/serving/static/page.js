// Makes the page quicker; without it every button sends an ordinary form. Fetches the same page and replaces its parts.
"use strict";
(() => {
  const form = document.getElementById("ask");
  const previews = document.getElementById("previews");
  const status = document.getElementById("status");
  const [chooser] = form.querySelectorAll("input[type=file]");
  const LONGEST_PX = 1024, SMALL_BYTES = 300_000, MOST = Number(form.dataset.images);
  let photos = [], running = null, later = 0;

  // --- asking ---

  function pairs(submitter) {
    const data = new FormData(form);
    data.delete("images");
    if (submitter?.name) data.append(submitter.name, submitter.value);
    for (const photo of photos) data.append("images", photo.file);
    return data;
  }

  async function ask(submitter) {
    clearTimeout(later);
    running?.abort();
    const mine = (running = new AbortController());
    const results = document.getElementById("results");
    results.setAttribute("aria-busy", "true");
    status.textContent = "Searching…";
    try {
      await Promise.all(photos.map((photo) => photo.ready));
      const data = pairs(submitter);
      const words = [...data].filter(([, value]) => typeof value !== "string" || value.trim() !== "");
      const posts = data.has("images") || data.has("photo");
      const address = posts ? "/" : "/?" + new URLSearchParams(words);
      const sent = posts ? { method: "POST", body: data } : {};
      const response = await fetch(address, { ...sent, signal: mine.signal, headers: { "X-Page": "swap" } });
      if (response.status === 401) return location.reload();
      show(new DOMParser().parseFromString(await response.text(), "text/html"), submitter);
    } catch (error) {
      if (error.name === "AbortError") return;
      complain(["The server cannot be reached. Check the connection and try again."]);
    } finally {
      if (running === mine) {
        running = null;
        document.getElementById("results").removeAttribute("aria-busy");
      }
    }
  }

  function show(page, submitter) {
    complain([...page.querySelectorAll("#problem p")].map((line) => line.textContent));
    if (!page.getElementById("results")) return void (status.textContent = "");
    const key = document.activeElement?.dataset?.key;
    const open = document.querySelector(".facet[open]")?.dataset.group;
    for (const id of ["facets", "state", "results"]) document.getElementById(id).replaceWith(page.getElementById(id));
    for (const facet of document.querySelectorAll(".facet")) facet.open = facet.dataset.group === open;
    const address = document.getElementById("state").dataset.address;
    if (address !== location.pathname + location.search) history.pushState(null, "", address);
    document.title = page.title;
    const found = document.getElementById("found");
    status.textContent = found.textContent;
    if (!key) return;
    const same = [...document.querySelectorAll("[data-key]")].find((element) => element.dataset.key === key);
    (same ?? found).focus({ preventScroll: Boolean(same) });
  }

  function complain(sentences) {
    const problem = document.getElementById("problem");
    problem.replaceChildren(...sentences.map((text) => Object.assign(document.createElement("p"), { textContent: text })));
    problem.className = sentences.length ? "problem" : "";
    if (sentences.length) {
      problem.setAttribute("role", "alert");
      problem.scrollIntoView({ block: "nearest" });
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.submitter?.name === "remove") event.submitter.closest("li").remove();
    if (event.submitter?.closest(".facet")) event.submitter.closest(".facet").open = false;
    ask(event.submitter?.name === "remove" ? null : event.submitter);
  });
  form.addEventListener("change", (event) => {
    if (event.target.type !== "checkbox") return;
    clearTimeout(later);
    later = setTimeout(ask, 250);
  });
  addEventListener("popstate", () => location.reload());

  // --- filters: one open at a time, closed from outside ---

  document.addEventListener("click", (event) => {
    for (const facet of document.querySelectorAll(".facet[open]")) if (!facet.contains(event.target)) facet.open = false;
  });
  document.addEventListener("keydown", (event) => {
    const open = event.key === "Escape" && document.querySelector(".facet[open]");
    if (!open) return;
    open.open = false;
    open.querySelector("summary").focus();
  });

  // --- photographs ---

  function add(files) {
    const pictures = [...files].filter((file) => file.type.startsWith("image/") || !file.type);
    if (!pictures.length) return files.length ? complain(["That is not a picture."]) : undefined;
    const room = MOST - previews.children.length;
    for (const file of pictures.slice(0, Math.max(0, room))) preview(file);
    if (pictures.length > room) complain([`At most ${MOST} photos are taken; the first ones are used.`]);
    ask();
  }

  function preview(file) {
    const photo = { file, ready: null };
    photo.ready = smaller(file).then((made) => (photo.file = made));
    photos.push(photo);
    const item = document.createElement("li"), image = new Image(72, 72), cross = document.createElement("button");
    image.src = URL.createObjectURL(file);
    image.alt = file.name;
    Object.assign(cross, { type: "button", className: "cross", textContent: "×" });
    cross.setAttribute("aria-label", `Remove ${file.name}`);
    cross.addEventListener("click", () => {
      photos = photos.filter((other) => other !== photo);
      URL.revokeObjectURL(image.src);
      item.remove();
      chooser.focus();
      ask();
    });
    item.append(image, cross);
    previews.append(item);
  }

  // A telephone's photo has megabytes, the model looks at a few hundred pixels.
  async function smaller(file) {
    if (file.size <= SMALL_BYTES) return file;
    try {
      const picture = await createImageBitmap(file, { imageOrientation: "from-image" });
      const scale = Math.min(1, LONGEST_PX / Math.max(picture.width, picture.height));
      const canvas = document.createElement("canvas");
      canvas.width = Math.max(1, Math.round(picture.width * scale));
      canvas.height = Math.max(1, Math.round(picture.height * scale));
      const context = canvas.getContext("2d");
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(picture, 0, 0, canvas.width, canvas.height);
      const made = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.85));
      return made && made.size < file.size ? new File([made], file.name, { type: "image/jpeg" }) : file;
    } catch {
      return file; // what this browser cannot read the server may, or says why not
    }
  }

  for (const input of form.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      add(input.files);
      input.value = "";
    });
  }
  const withFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!withFiles(event)) return;
    event.preventDefault();
    document.documentElement.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.documentElement.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    document.documentElement.classList.remove("dropping");
    if (!withFiles(event)) return;
    event.preventDefault();
    add(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) add(event.clipboardData.files);
  });
})();
