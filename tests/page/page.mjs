// Looks at the page of a running Banyan in Chromium, as a person would. Started by the tests `page_*` of tests/e2e/page.rs:
//   node page.mjs SCENE '{"base": "http://…", …}'
// Everything waits for what it expects, bounded; a message on the console, a broken policy or a request to anywhere else fails the scene.
import assert from 'node:assert/strict'
import fs from 'node:fs'
import { createRequire } from 'node:module'
import { scenes } from './scenes.mjs'

const [, , name, told] = process.argv
const given = JSON.parse(told)
const { chromium } = createRequire(`${given.modules}/`)('playwright-core')

const browser = await chromium.launch({ executablePath: given.chromium, args: ['--no-sandbox', '--disable-dev-shm-usage'] })
const troubles = []

/** A browser of its own, with nothing in it. */
async function visitor(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 860 }, ...options })
  context.setDefaultTimeout(30_000)
  const page = await context.newPage()
  const own = new URL(given.base).origin
  page.on('pageerror', (error) => troubles.push(`error: ${error.message}`))
  page.on('console', (message) => {
    // What is refused is what some scenes are about, and Chromium says so of every status above 399; so it does of a Banyan that is gone.
    const expected = /Failed to load resource.*(status of 401|status of 409|ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE|status of 503)/
    if (!expected.test(message.text())) troubles.push(`console: ${message.text()}`)
  })
  page.on('request', (request) => {
    const url = new URL(request.url())
    if (url.protocol !== 'data:' && url.origin !== own) troubles.push(`asks elsewhere: ${request.url()}`)
  })
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))
  })
  return page
}

const shot = async (page, called) => {
  fs.mkdirSync(given.shots, { recursive: true })
  await page.screenshot({ path: `${given.shots}/${called}.png`, fullPage: true })
}

/** Until a condition holds that no element tells. */
async function eventually(what, holds, within = 30_000) {
  const end = Date.now() + within
  let last
  for (;;) {
    try {
      last = await holds()
      if (last) return last
    } catch (error) {
      last = error
    }
    assert(Date.now() < end, `${what}: not within ${within} ms; at last ${last}`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

/** Replaces text in the file, as an editor does. */
function edit(from, to) {
  const text = fs.readFileSync(given.file, 'utf8')
  assert(text.includes(from), `the file has no ${from}`)
  fs.writeFileSync(`${given.file}.new`, text.replace(from, to))
  fs.renameSync(`${given.file}.new`, given.file)
}

try {
  await scenes[name]({ given, visitor, shot, eventually, edit, assert })
  assert.deepEqual(troubles, [], 'the browser had something to say')
  console.log(`${name}: as expected`)
} catch (error) {
  console.error(error)
  if (troubles.length) console.error(troubles.join('\n'))
  for (const context of browser.contexts()) {
    for (const page of context.pages()) {
      await shot(page, `failed-${name}`).catch(() => {})
      console.error((await page.innerText('body').catch(() => '')).slice(0, 3000))
    }
  }
  process.exitCode = 1
}
await browser.close()
