// Opens a page in headless Chromium. Commands on standard input, one JSON object a line, each answered by one line:
// {"wait": TEXT} waits until the page shows this text (white space is one space), and answers with the time since
// the page was opened (milliseconds); {"text": true} answers with all text of the page;
// {"size": [WIDTH, HEIGHT], "dark": BOOL, "file": PATH} takes a screenshot.
//
// Argument: the URL.

const readline = require("node:readline");
const puppeteer = require("puppeteer-core");

async function main() {
  const browser = await puppeteer.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
  });
  const page = await browser.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(process.argv[2], { waitUntil: "domcontentloaded" });
  const shown = (text) => document.body.innerText.replace(/\s+/g, " ").includes(text);
  console.log("open");
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    let answer = null;
    if (command.wait !== undefined) {
      // Not by waitForFunction, which the page's content security policy forbids.
      const end = Date.now() + 20000;
      while (!(await page.evaluate(shown, command.wait))) {
        if (Date.now() > end) throw new Error(`the page does not show ${command.wait}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      answer = await page.evaluate(() => performance.now());
    } else if (command.text) {
      answer = await page.evaluate(() => document.body.innerText.replace(/\s+/g, " "));
    } else if (command.file) {
      const [width, height] = command.size;
      await page.setViewport({ width, height });
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: command.dark ? "dark" : "light" }]);
      await page.screenshot({ path: command.file });
      answer = await page.evaluate(() => document.documentElement.scrollWidth);
    }
    console.log(JSON.stringify({ answer, errors }));
  }
  await browser.close();
}
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
