// A person's way through the dashboard of `cargo run`, in a real browser: BINARY, OFFSET (of its ports), CHROMIUM and
// NODE_MODULES come by environment. Every promise of two seconds is waited for six, and what it took is printed.
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import assert from "node:assert/strict";

const require = createRequire(`${process.env.NODE_MODULES}/`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const offset = Number(process.env.OFFSET);
const url = `http://127.0.0.1:${8080 + offset}`;
const PATIENCE = 6000;
const ID = "unreliable_service";

let child;
let told = "";
function start() {
  child = spawn(process.env.BINARY, ["--port-offset", String(offset)], { stdio: ["pipe", "pipe", "pipe"] });
  told = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (told += text));
}
function stop() {
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  return ended;
}
async function until(what, check, patience = PATIENCE) {
  const from = Date.now();
  for (;;) {
    if (await check().catch(() => false)) {
      console.log(`ok  ${what} (${Date.now() - from} ms)`);
      return;
    }
    if (Date.now() - from > patience) throw new Error(`not within ${patience} ms: ${what}\n${told.slice(-2000)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
const api = async () => (await (await fetch(`${url}/api/v1/breakers`)).json()).items[0]?.state;

const complaints = [];
let outage = false;
async function open(browser, options, path) {
  const page = await browser.newPage(options);
  const complain = (text) => {
    // That the server is gone while we take it away is what the browser must say.
    if (!outage || !/ERR_CONNECTION|ERR_INCOMPLETE|ERR_EMPTY|ERR_FAILED/.test(text)) complaints.push(`${path}: ${text}`);
  };
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complain(message.text()));
  page.on("pageerror", (error) => complain(String(error)));
  await page.goto(url + path);
  return page;
}
// Axe runs as a test's own script, past the page's policy, which allows none.
async function accessible(page, what) {
  const session = await page.context().newCDPSession(page);
  await session.send("Runtime.evaluate", { expression: axe });
  const { result } = await session.send("Runtime.evaluate", {
    expression: "axe.run({resultTypes: ['violations']}).then((r) => JSON.stringify(r.violations))",
    awaitPromise: true,
  });
  const violations = JSON.parse(result.value).filter(({ impact }) => impact === "serious" || impact === "critical");
  const listed = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target).slice(0, 4).join(", ")}`);
  assert.deepEqual(listed, [], `axe on ${what}`);
  console.log(`ok  axe finds nothing serious on ${what}`);
}

start();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
try {
  await until("the dashboard is ready", async () => (await fetch(`${url}/readyz`)).ok, 20000);
  await until("the breaker is known and closed", async () => (await api()) === "Closed", 20000);
  const page = await open(browser, {}, "/");
  await page.evaluate(() => (window.mark = "not reloaded"));
  const row = page.locator(`tr[data-id="${ID}"]`);
  await until("the row is there", async () => (await row.count()) === 1);
  await row.locator("th a").focus();

  await until("the breaker opens", async () => (await api()) === "Open", 30000);
  await until("the page shows it without a reload", async () => (await row.getAttribute("class")).includes("open"));
  assert.match(await page.locator("#announcer").textContent(), /unreliable_service is open/, "role=status tells the transition");
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("href")), `/breakers/${ID}`, "the focus stayed");
  assert.match(await page.title(), /./);
  const countdown = row.locator("time[data-until]");
  const first = await countdown.textContent();
  await until("the countdown ticks", async () => (await countdown.textContent()) !== first);
  await until("calls a second are drawn", async () => (await row.locator("svg.spark path.calls").count()) === 1);
  await until("rejections are counted", async () => /[1-9]/.test(await row.locator("td.rejects").textContent()));
  assert.equal(await page.evaluate(() => window.mark), "not reloaded");
  await accessible(page, "the list");

  // Filter, by keyboard.
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("/");
  await page.keyboard.type("nothing-like-it");
  await page.keyboard.press("Enter");
  await page.waitForURL(/q=nothing-like-it/);
  assert.match(await page.locator(".nothing").textContent(), /No breaker matches/);
  await page.getByRole("link", { name: "Show all", exact: true }).click();
  await page.waitForURL((address) => address.search === "");
  await page.locator('select[name="ns"]').selectOption("-");
  await page.waitForURL(/ns=-/);
  assert.equal(await row.count(), 1);
  console.log("ok  filters stand in the address");
  await page.getByRole("link", { name: "Service", exact: true }).click();
  await page.waitForURL(/sort=name/);
  assert.equal(await page.locator("th.name[aria-sort]").getAttribute("aria-sort"), "ascending");
  console.log("ok  so does the order");

  // Detail.
  await row.locator("th a").click();
  await page.waitForURL(new RegExp(`/breakers/${ID}$`));
  await page.evaluate(() => (window.mark = "not reloaded"));
  assert.match(await page.locator("h1").textContent(), /unreliable_service/);
  assert.equal(await page.locator("table.members tbody tr").count(), 3);
  assert.ok((await page.locator(".moments li").count()) >= 2);
  await accessible(page, "a breaker");
  await page.emulateMedia({ colorScheme: "dark" });
  await accessible(page, "a breaker, dark");
  await page.emulateMedia({ colorScheme: "light" });
  await until("it closes again, seen here", async () => /Closed/.test(await page.locator(".verdict .badge").textContent()), 45000);

  // Action with confirmation.
  await page.getByRole("button", { name: "Force open…" }).click();
  await page.waitForURL(/\/act\?/);
  assert.match(await page.locator("h1").textContent(), /Force open unreliable_service\?/);
  assert.match(await page.locator(".answers").textContent(), /reject every call to unreliable_service/);
  await accessible(page, "a confirmation");
  await page.getByLabel("Reason").fill("INC-77: seen by the test");
  await page.getByLabel("For").selectOption("5m");
  await page.getByRole("button", { name: `Yes, force open ${ID}` }).click();
  await page.waitForURL(/done=force_open/);
  await until("the override is shown", async () => /Forced open/.test(await page.locator(".verdict .badge").textContent()));
  await until("with its reason", async () => /INC-77: seen by the test/.test(await page.locator(".answers").textContent()));
  await page.reload();
  await page.getByRole("button", { name: "Clear override…" }).click();
  await page.getByLabel("Reason").fill("over");
  await page.getByRole("button", { name: /^Yes, clear/ }).click();
  await page.waitForURL(/done=clear/);
  await until("the override is gone", async () => !/Forced/.test(await page.locator(".verdict .badge").textContent()));

  // History.
  await page.getByRole("link", { name: "History" }).click();
  await page.waitForURL(/history/);
  await until("incidents are drawn", async () => (await page.locator(".incident svg.lane path.open").count()) >= 1);
  assert.match(await page.locator(".incident h3").first().textContent(), /unreliable_service opened first/);
  await accessible(page, "the history");

  // Hidden: nothing is asked for. Shown again: it is fresh.
  await page.goto(`${url}/`);
  const viewers = async () => Number(/tiebar_ui_viewers (\d+)/.exec(await (await fetch(`${url}/metrics`)).text())[1]);
  await until("one viewer", async () => (await viewers()) === 1);
  const hide = (hidden) =>
    page.evaluate((value) => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => value });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
  await hide(true);
  await until("a hidden page has no stream", async () => (await viewers()) === 0);
  await hide(false);
  await until("a shown one has", async () => (await viewers()) === 1);

  // Without a stream the page polls.
  const polling = await browser.newContext();
  await polling.route("**/events?*", (route) => route.abort());
  outage = true;
  const poller = await open({ newPage: () => polling.newPage() }, {}, "/");
  complaints.length = 0;
  const age = () => poller.locator("time[data-age]").getAttribute("data-age");
  const before = await age();
  await until("polling keeps it fresh", async () => (await age()) > before, 15000);
  await poller.close();

  // The server goes and comes back.
  await page.evaluate(() => (window.mark = "not reloaded"));
  await stop();
  await until("a lost server is said", async () => page.evaluate(() => document.body.classList.contains("lost")), 15000);
  start();
  await until("the server is back", async () => (await api()) === "Closed", 30000);
  const now = Date.now();
  await until("and so is the page", async () => page.evaluate((now) => !document.body.classList.contains("lost") && Number(document.querySelector("time[data-age]").dataset.age) > now, now), 15000);
  assert.equal(await page.evaluate(() => window.mark), "not reloaded");
  outage = false;
  await until("it opens again", async () => (await api()) === "Open", 30000);
  await until("and the page shows it", async () => (await row.getAttribute("class")).includes("open"));
  await page.close();

  // Without scripts.
  const plain = await (await browser.newContext({ javaScriptEnabled: false })).newPage();
  await plain.goto(`${url}/breakers/${ID}`);
  assert.equal(await plain.locator('noscript meta[http-equiv="refresh"], meta[http-equiv="refresh"]').count(), 1);
  await plain.getByRole("button", { name: "Force closed…" }).click();
  await plain.getByLabel("Reason").fill("by hand, without a script");
  await plain.getByRole("button", { name: `Yes, force closed ${ID}` }).click();
  await plain.waitForURL(/done=force_closed/);
  await until("an action needs no script", async () => (await api()) === "ForcedClosed");

  // Small, and quiet for those who want no motion.
  const phone = await open(browser, { viewport: { width: 360, height: 740 }, isMobile: true, reducedMotion: "reduce" }, "/");
  await accessible(phone, "a phone");
  for (const path of ["/", `/breakers/${ID}`, "/history", `/act?id=${ID}&do=force_open`]) {
    await phone.goto(url + path);
    const wide = await phone.evaluate(() => document.documentElement.scrollWidth - 360);
    assert.ok(wide <= 0, `a phone scrolls ${path} sideways by ${wide} px`);
  }
  assert.deepEqual(complaints, [], "the console stays empty");
  console.log("ok  the console stayed empty");
} finally {
  await browser.close();
  if (child.exitCode === null) await stop();
}
