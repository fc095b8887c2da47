"use strict";
// The step that is shown: each run has what it drew then, or last before.
function showStep(wanted) {
  for (const run of document.querySelectorAll("#gallery .run")) {
    let at = null;
    for (const stack of run.querySelectorAll(".stack")) {
      const images = [...stack.querySelectorAll("img")];
      const past = images.filter((image) => Number(image.dataset.step) <= wanted);
      const shown = past[past.length - 1] || null;
      for (const image of images) image.hidden = image !== shown;
      if (shown !== null) at = shown.dataset.step;
    }
    const label = run.querySelector(".at");
    if (label !== null) label.textContent = at === null ? "nothing yet" : `step ${at}`;
  }
}

const slider = document.getElementById("step");
if (slider !== null) {
  const steps = slider.dataset.steps.split(" ").map(Number);
  const output = document.querySelector(".slider output");
  const play = document.getElementById("play");
  let timer = null;
  const show = () => {
    const step = steps[Number(slider.value)];
    output.textContent = `step ${step}`;
    slider.setAttribute("aria-valuetext", output.textContent);
    showStep(step);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶\ufe0e";
    play.setAttribute("aria-label", "play");
  };
  slider.addEventListener("input", () => {
    stop();
    show();
  });
  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (Number(slider.value) === steps.length - 1) slider.value = "0";
    show();
    play.textContent = "❚❚\ufe0e";
    play.setAttribute("aria-label", "pause");
    timer = setInterval(() => {
      slider.value = String(Number(slider.value) + 1);
      show();
      if (Number(slider.value) === steps.length - 1) stop();
    }, 700);
  });
  show();
}

const wipe = document.getElementById("wipe");
if (wipe !== null) {
  const section = document.getElementById("wipes");
  const show = () => section.style.setProperty("--wipe", `${wipe.value}%`);
  wipe.addEventListener("input", show);
  for (const stack of section.querySelectorAll(".stack")) {
    stack.addEventListener("pointermove", (event) => {
      const box = stack.getBoundingClientRect();
      const part = (event.clientX - box.left) / box.width;
      wipe.value = String(Math.round(100 * Math.min(1, Math.max(0, part))));
      show();
    });
  }
  show();
}

// The values under a pointer.
const format = (value) => String(Number(value.toPrecision(4))).replace("-", "\u2212");
for (const plot of document.querySelectorAll(".plot")) {
  const series = JSON.parse(plot.dataset.series);
  const [low, high] = plot.dataset.x.split(" ").map(Number);
  const cross = plot.querySelector(".cross");
  const tip = plot.querySelector(".tip");
  const hide = () => {
    cross.hidden = true;
    tip.hidden = true;
  };
  const show = (event) => {
    const box = plot.getBoundingClientRect();
    const part = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const at = low + part * (high - low);
    let nearest = null;
    for (const one of series) {
      one.x.forEach((x, i) => {
        if (x === null || one.y[i] === null) return;
        if (nearest === null || Math.abs(x - at) < Math.abs(nearest - at)) nearest = x;
      });
    }
    if (nearest === null) return;
    tip.replaceChildren(document.createTextNode(`step ${format(nearest)}`));
    for (const one of series) {
      const i = one.x.indexOf(nearest);
      if (i < 0 || one.y[i] === null) continue;
      const line = document.createElement("div");
      const spread = one.spread && one.spread[i] !== null ? one.spread[i] : null;
      const text = spread === null ? "" : ` ± ${format(spread)}`;
      line.className = `key line ${one.color}`;
      line.append(document.createElement("i"));
      line.append(`${one.name} ${format(one.y[i])}${text}`.trim());
      tip.append(line);
    }
    const left = (nearest - low) / (high - low);
    cross.style.left = `${100 * left}%`;
    tip.style.left = left < 0.5 ? `calc(${100 * left}% + 0.6rem)` : "auto";
    tip.style.right = left < 0.5 ? "auto" : `calc(${100 - 100 * left}% + 0.6rem)`;
    cross.hidden = false;
    tip.hidden = false;
  };
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", hide);
}
