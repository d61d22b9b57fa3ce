// Pictures of a dashboard, to be looked at: node shots.mjs URL FOLDER, with NODE_MODULES naming where playwright-core is.
import { createRequire } from "node:module";
const require = createRequire(`${process.env.NODE_MODULES}/`);
const { chromium } = require("playwright-core");
const [url, folder] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });

async function shot(name, path, options, fullPage = false) {
  const page = await browser.newPage({ viewport: { width: 1360, height: 860 }, deviceScaleFactor: 1, ...options });
  if (options?.greyscale) {
    const session = await page.context().newCDPSession(page);
    await session.send("Emulation.setEmulatedVisionDeficiency", { type: "achromatopsia" });
  }
  if (options?.print) await page.emulateMedia({ media: "print" });
  await page.goto(url + path);
  await page.waitForTimeout(1500);
  await page.screenshot({ path: `${folder}/${name}.png`, fullPage });
  await page.close();
}

const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const act = "/act?id=shop/inventory&do=force_closed&reason=INC-77&expires=15m";
await shot("list-light", "/", {});
await shot("list-dark", "/", { colorScheme: "dark" });
await shot("list-grey", "/", { greyscale: true });
await shot("list-phone", "/", phone);
await shot("list-print", "/", { print: true });
await shot("detail-light", "/breakers/shop/inventory", {}, true);
await shot("detail-mail", "/breakers/shop/mail", {}, true);
await shot("detail-dark", "/breakers/shop/payments", { colorScheme: "dark" }, true);
await shot("detail-phone", "/breakers/shop/orders", phone, true);
await shot("history-light", "/history", {}, true);
await shot("history-dark", "/history", { colorScheme: "dark" });
await shot("confirm-light", act, {});
await browser.close();
