// Opens every page of the dashboard in Chromium and says what is wrong with it, one JSON object a
// line. What it is to open comes as JSON on standard input.
"use strict";
const fs = require("fs");
const path = require("path");
const { chromium } = require("playwright-core");

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const WIDTHS = [320, 768, 1280, 1920];
const SHOTS = [320, 1280];

const wanted = JSON.parse(fs.readFileSync(0, "utf8"));
const tell = (what) => process.stdout.write(JSON.stringify(what) + "\n");
const wrong = (page, what) => tell({ wrong: `${page}: ${what}` });

/** Runs in the page: what is wrong with it for who reads, hears or types. */
function inspect() {
  const found = [];
  const number = (text) => (text.match(/[\d.]+/g) || []).map(Number);
  const luminance = ([r, g, b]) => {
    const part = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = number(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
      if (color[3] > 0) found.push(`a background that shines through at ${at.tagName}`);
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("script, noscript, style, title, desc, option")) continue;
    if (!element.checkVisibility({ visibilityProperty: true })) continue;
    const style = getComputedStyle(element);
    const ink = number(element.closest("svg") ? style.fill : style.color);
    const [one, other] = [luminance(ink), luminance(behind(element))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(2)} of "${node.data.trim().slice(0, 40)}"`);
  }
  const named = (element) =>
    element.getAttribute("aria-label") || element.labels?.length || element.textContent.trim();
  for (const element of document.querySelectorAll("a, button, input:not([type=hidden]), select, textarea, summary")) {
    const label = element.matches("input, select, textarea")
      ? element.getAttribute("aria-label") || element.labels.length
      : named(element);
    if (!label) found.push(`no name for ${element.outerHTML.slice(0, 80)}`);
  }
  for (const svg of document.querySelectorAll("svg")) {
    if (svg.getAttribute("aria-hidden") !== "true" && !svg.getAttribute("aria-label")) found.push("a picture without words");
  }
  for (const table of document.querySelectorAll("table")) {
    if (!table.caption?.textContent.trim()) found.push("a table without a caption");
    if ([...table.querySelectorAll("th")].some((cell) => !cell.scope)) found.push("a heading of no row or column");
  }
  const headings = [...document.querySelectorAll("h1, h2, h3, h4")].map((heading) => Number(heading.tagName[1]));
  if (headings.filter((level) => level === 1).length !== 1 || headings[0] !== 1) found.push(`headings ${headings}`);
  if (headings.some((level, at) => at > 0 && level > headings[at - 1] + 1)) found.push(`headings jump: ${headings}`);
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(ids).size !== ids.length) found.push(`an id twice: ${ids}`);
  for (const landmark of ["header", "main", "footer"]) {
    if (document.querySelectorAll(`body > ${landmark}`).length !== 1) found.push(`not one ${landmark}`);
  }
  if (!document.documentElement.lang || !document.title) found.push("no language or title");
  return found;
}

async function open(page, url) {
  await page.goto(url, { waitUntil: "load" });
  // What is still being read comes by itself.
  await page.waitForFunction(() => !/are being read/.test(document.body.innerText), null, { timeout: 60000 });
}

async function login(page) {
  await page.goto(wanted.base + "/login");
  await page.fill("#token", wanted.token);
  await Promise.all([page.waitForURL((url) => url.pathname === "/"), page.click("form.login button")]);
}

async function main() {
  const browser = await chromium.launch({ executablePath: wanted.chromium, args: FLAGS });
  const context = await browser.newContext({ locale: "en-US", viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  let at = "";
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(wanted.base + "/") && !url.startsWith("data:")) wrong(at, `asks for ${url}`);
  });
  page.on("console", (message) => {
    const expected = /status of (403|404)/.test(message.text());
    if (message.type() === "error" && !expected) wrong(at, `console: ${message.text()}`);
  });
  page.on("pageerror", (error) => wrong(at, `script: ${error}`));

  const look = async (name, url) => {
    at = name;
    await open(page, wanted.base + url);
    // Before the first screenshot, which puts a style of its own into the page.
    const inside = await page.evaluate(() => document.querySelector("[style], style, main script, [onclick]")?.outerHTML);
    if (inside) wrong(name, `has inside it ${inside}`);
    for (const scheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme: scheme });
      for (const what of await page.evaluate(inspect)) wrong(`${name}, ${scheme}`, what);
      for (const width of WIDTHS) {
        await page.setViewportSize({ width, height: 800 });
        const wide = await page.evaluate(() => document.documentElement.scrollWidth);
        if (wide > width) wrong(name, `is ${wide} wide in ${width}`);
        if (SHOTS.includes(width)) {
          await page.screenshot({ path: path.join(wanted.shots, `${name}-${width}-${scheme}.png`), fullPage: true });
        }
      }
    }
    await page.emulateMedia({ colorScheme: "light" });
    await page.setViewportSize({ width: 1280, height: 800 });
  };

  await look("login", "/login?next=/runs");
  await login(page);
  for (const [name, url] of Object.entries(wanted.pages)) await look(name, url);

  // With the keyboard alone: the first stop skips the navigation.
  at = "keyboard";
  await open(page, wanted.base + "/");
  await page.keyboard.press("Tab");
  const skip = await page.evaluate(() => [document.activeElement.className, document.activeElement.getBoundingClientRect().left >= 0]);
  if (skip[0] !== "skip" || !skip[1]) wrong(at, `the first stop is ${skip}`);
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  const stop = await page.evaluate(() => {
    const style = getComputedStyle(document.activeElement);
    return [Boolean(document.activeElement.closest("main")), style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
  });
  if (!stop[0] || !stop[1]) wrong(at, `after the skip: ${stop}`);

  // An approval, as a person gives it.
  at = "approval";
  await open(page, wanted.base + wanted.approval);
  await page.selectOption("#name", "ann");
  await page.fill("#reason", "seen in a browser");
  await Promise.all([page.waitForNavigation(), page.click("section.ask button")]);
  const said = await page.innerText("main");
  if (!/ann approved/.test(said) || !/1 of 2 approvals given: ann/.test(said)) wrong(at, said);
  await page.screenshot({ path: path.join(wanted.shots, "approved-1280-light.png"), fullPage: true });

  // A job.
  at = "job";
  await open(page, wanted.base + "/jobs");
  await Promise.all([page.waitForNavigation(), page.getByRole("button", { name: "Begin dump now" }).click()]);
  const begun = await page.innerText("main");
  if (!/1 run was asked for/.test(begun)) wrong(at, begun);

  // The other language, chosen on the page and kept.
  at = "language";
  await open(page, wanted.base + "/");
  await Promise.all([page.waitForNavigation(), page.click("text=中文")]);
  for (const name of ["overview", "timeline", "jobs"]) {
    await open(page, wanted.base + wanted.pages[name]);
    if ((await page.getAttribute("html", "lang")) !== "zh-CN") wrong(at, name);
    await page.screenshot({ path: path.join(wanted.shots, `${name}-zh-1280-light.png`), fullPage: true });
  }

  // What is live comes again by itself, but not while somebody writes.
  at = "live";
  await open(page, wanted.base + wanted.approval);
  await page.evaluate(() => (window.same = true));
  await page.waitForFunction(() => !window.same, null, { timeout: 60000 });

  // Without scripts everything is there to be read.
  const plain = await browser.newContext({ javaScriptEnabled: false, locale: "en-US" });
  await plain.addCookies(await context.cookies());
  const still = await plain.newPage();
  for (const [name, url] of Object.entries(wanted.pages)) {
    const answer = await still.goto(wanted.base + url);
    const html = await answer.text();
    const text = html.replace(/<noscript>.*?<\/noscript>/g, "").replace(/<script.*?<\/script>/g, "");
    if (!/<h1>.+<\/h1>/.test(text) || text.length < 900) wrong(`${name} without scripts`, text);
    if (html.includes("data-reload") && !/<noscript><meta http-equiv="refresh"/.test(html)) wrong(name, "never comes again without scripts");
  }
  await browser.close();
  tell({ done: Object.keys(wanted.pages).length });
}

main().catch((error) => {
  wrong("the browser", String(error && error.stack));
  process.exit(1);
});
