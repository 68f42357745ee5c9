"use strict";
// Without this script each video has the browser's controls and none plays by itself.
(() => {
  const videos = [...document.querySelectorAll(".video video")];
  const reduced = matchMedia("(prefers-reduced-motion: reduce)");
  const controls = document.querySelector(".controls");
  const toggle = document.querySelector(".play");
  const visible = new Set();
  let playing = !reduced.matches;

  const show = () => {
    for (const video of videos) {
      if (playing && visible.has(video)) video.play().catch(() => {});
      else video.pause();
    }
    if (toggle) toggle.textContent = playing ? "Pause videos" : "Play videos";
  };
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) visible[isIntersecting ? "add" : "delete"](target);
    show();
  });
  for (const video of videos) {
    video.controls = false;
    seen.observe(video);
  }
  if (toggle && videos.length) {
    controls.hidden = false;
    toggle.addEventListener("click", () => { playing = !playing; show(); });
  }
  reduced.addEventListener("change", () => { playing = !reduced.matches; show(); });
  show();

  // Toy videos are drawn with sharp pixels. Larger ones are not: without smoothing, a picture drawn smaller gets patterns.
  const sharpen = ({ target: media }) => {
    media.classList.toggle("sharp", (media.videoWidth || media.naturalWidth) < media.clientWidth);
  };
  const watch = (media) => {
    media.addEventListener("loadedmetadata", sharpen);
    media.addEventListener("load", sharpen);
    if (media.readyState || media.complete) sharpen({ target: media });
  };

  const viewer = document.querySelector(".viewer");
  const picture = viewer.querySelector(".picture");
  let row = [], index = 0;

  const open = (next, time) => {
    index = (next + row.length) % row.length;
    const media = row[index].cloneNode();
    if (media.tagName === "VIDEO") {
      media.controls = true;
      media.addEventListener("loadedmetadata", () => {
        media.currentTime = time || 0;
        if (!reduced.matches) media.play().catch(() => {});
      }, { once: true });
    }
    picture.replaceChildren(media);
    watch(media);
    const place = row.length > 1 ? ` (${index + 1} of ${row.length})` : "";
    viewer.querySelector(".viewed").textContent = (media.getAttribute("aria-label") || media.alt) + place;
    for (const name of ["previous", "next"]) viewer.querySelector(`.${name}`).hidden = row.length < 2;
  };
  const step = (by) => { if (row.length > 1) open(index + by, (picture.querySelector("video") || {}).currentTime); };
  viewer.querySelector(".previous").addEventListener("click", () => step(-1));
  viewer.querySelector(".next").addEventListener("click", () => step(1));
  viewer.querySelector(".close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => picture.replaceChildren());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && event.target.tagName !== "VIDEO") { event.preventDefault(); step(by); }
  });

  for (const frame of document.querySelectorAll(".frame")) {
    const media = frame.firstElementChild;
    watch(media);
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.textContent = "⤢";
    button.setAttribute("aria-label", `Enlarge: ${media.getAttribute("aria-label") || media.alt}`);
    const enlarge = () => {
      row = [...frame.closest(".videos").querySelectorAll(".frame > :first-child")];
      viewer.showModal();
      open(row.indexOf(media), media.currentTime);
    };
    button.addEventListener("click", enlarge);
    media.addEventListener("click", enlarge);
    frame.append(button);
  }
})();
