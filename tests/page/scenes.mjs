// What a person does with the page, and what must be there then. One scene a test.

/** No scrolling sideways, whatever is shown. */
async function fits(page, assert) {
  const [inner, wide] = await page.evaluate(() => [document.documentElement.clientWidth, document.documentElement.scrollWidth])
  assert(wide <= inner, `${page.url()} is ${wide} wide in ${inner}`)
}

const names = (page) => page.locator('a.row').allInnerTexts()
const cell = (page, route, label) => page.locator('tr', { has: page.locator('a.row', { hasText: new RegExp(`^${route}$`) }) }).locator(`[data-label="${label}"]`)

async function signIn(page, token) {
  await page.fill('#token', token)
  await page.press('#token', 'Enter')
}

export const scenes = {
  async sign_in({ given, visitor, shot, assert, eventually }) {
    const page = await visitor()
    await page.goto(given.base)
    await page.getByRole('heading', { name: 'Sign in' }).waitFor()
    assert.equal(await page.locator('a.row').count(), 0)
    await shot(page, 'sign-in')
    await signIn(page, 'not-the-token-0123456789abcdef0123456')
    await page.getByRole('alert').getByText('not known here').waitFor()

    await signIn(page, given.view)
    await page.locator('a.row', { hasText: 'payments' }).waitFor()
    await page.getByText('may view').waitFor()
    const [cookie] = await page.context().cookies(`${given.base}api/v1/status`)
    assert.deepEqual([cookie.name, cookie.httpOnly, cookie.sameSite, cookie.path], ['banyan_session', true, 'Strict', '/api/v1'])
    await page.reload()
    await page.locator('a.row', { hasText: 'payments' }).waitFor()
    const kept = await page.evaluate(() => JSON.stringify([document.cookie, { ...window.localStorage }, { ...window.sessionStorage }, document.documentElement.outerHTML]))
    assert(!kept.includes(given.view), 'the token stays nowhere')

    await page.getByRole('button', { name: 'Sign out' }).click()
    await page.getByRole('heading', { name: 'Sign in' }).waitFor()
    assert.deepEqual(await page.context().cookies(`${given.base}api/v1/status`), [])

    // The link that a terminal prints.
    const other = await visitor()
    await other.goto(`${given.base}#token=${given.operate}`)
    await other.getByText('may operate').waitFor()
    await eventually('the token is gone from the address', () => !other.url().includes('token'))
    const history = await other.evaluate(() => window.history.length)
    assert(history <= 2, 'and from the history')
  },

  async routes({ given, visitor, shot, assert, eventually }) {
    const page = await visitor()
    await page.goto(given.base)
    await page.locator('a.row', { hasText: 'payments' }).waitFor()
    assert.deepEqual(await names(page), ['payments', 'orders', 'accounts', 'inventory', 'default'])
    await page.locator('#well', { hasText: 'All 5 routes as wanted' }).waitFor()
    await cell(page, 'payments', 'Stage').getByText('canary').waitFor()
    await cell(page, 'orders', 'Stage').getByText('shadow').waitFor()
    await cell(page, 'payments', 'Split').getByText('50 %').waitFor()
    await page.getByText('/payments', { exact: true }).waitFor()
    await eventually('both sides were seen', async () => {
      const p99 = await Promise.all(['Legacy p99', 'Modern p99'].map((label) => cell(page, 'payments', label).innerText()))
      return p99.every((text) => /^[\d.]+ (ms|s)$/.test(text)) && p99.join()
    })
    assert.match(await cell(page, 'payments', 'Last hit').innerText(), /now|ago/)
    assert.equal(await cell(page, 'inventory', 'Last hit').innerText(), '–')
    // A letter beside each of the two colours.
    const letters = await page.locator('thead .side').allInnerTexts()
    assert.deepEqual(letters, ['L', 'M'])
    await eventually('modern fails in every tenth', async () => /▲/.test(await cell(page, 'payments', 'Modern errors').innerText()))
    await shot(page, 'routes')

    // Sorted by a click, the other way by another; the address keeps it.
    const sort = (name) => page.getByRole('button', { name: `sort by ${name}` })
    await sort('Route').click()
    assert.deepEqual(await names(page), ['accounts', 'default', 'inventory', 'orders', 'payments'])
    await sort('Route').click()
    assert.deepEqual(await names(page), ['payments', 'orders', 'inventory', 'default', 'accounts'])
    assert.equal(await page.locator('th[aria-sort="descending"]').innerText(), 'Route↓')
    assert.match(page.url(), /sort=-name/)

    // The keyboard alone: to the filter, along the rows, into one and back.
    await page.keyboard.press('/')
    await page.keyboard.type('o')
    await page.keyboard.type('r')
    await eventually('two are left', async () => (await names(page)).join() === 'orders,inventory')
    assert.match(page.url(), /q=or/)
    await page.reload()
    await eventually('a reload keeps filter and order', async () => (await names(page)).join() === 'orders,inventory')
    assert.equal(await page.inputValue('#filter'), 'or')
    await page.keyboard.press('/')
    await page.keyboard.press('Escape')
    await eventually('all are back', async () => (await names(page)).length === 5)
    await page.keyboard.press('j')
    await page.keyboard.press('j')
    await page.keyboard.press('k')
    const focused = () => page.evaluate(() => document.activeElement.textContent)
    assert.equal(await focused(), 'payments')
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle)
    assert.equal(outline, 'solid', 'what has the focus shows it')
    await page.keyboard.press('Enter')
    await page.getByRole('heading', { name: 'payments', level: 1 }).waitFor()
    await page.keyboard.press('Escape')
    await page.locator('a.row', { hasText: 'payments' }).waitFor()

    // From 400 pixels to wide, light and dark.
    for (const width of [400, 700, 861, 981, 1920]) {
      await page.setViewportSize({ width, height: 900 })
      for (const view of ['#/routes', '#/route/payments', '#/differences/orders', '#/syncs', '#/config']) {
        await page.goto(given.base + view)
        await page.locator('#main > :nth-child(2)').waitFor()
        await fits(page, assert)
        if (width === 400) await shot(page, `narrow-${view.split('/')[1]}`)
      }
    }
    await page.setViewportSize({ width: 1440, height: 860 })
    await page.goto(`${given.base}#/routes`)
    await page.locator('a.row', { hasText: 'payments' }).waitFor()
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor)
    const light = await ground()
    await page.emulateMedia({ colorScheme: 'dark' })
    const dark = await ground()
    const bright = (colour) => colour.match(/\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0)
    assert(bright(light) > 700 && bright(dark) < 100, `${light} ${dark}`)
    await shot(page, 'routes-dark')
  },

  async reload({ given, visitor, shot, assert, edit, eventually }) {
    const page = await visitor()
    await page.goto(`${given.base}#/route/payments`)
    await page.getByText('Nothing changed since Banyan started.').waitFor()
    assert.equal(await page.locator('.chart canvas').count(), 3)
    edit('weight: 50', 'weight: 25')
    await page.locator('.marks').getByText('weight 50 % → 25 %').waitFor()
    await page.locator('.facts').getByText('25 %').first().waitFor()
    // The chart has it too: a dashed line in the mark's own colour.
    await eventually('the chart is marked', () =>
      page.evaluate(() => {
        const probe = document.createElement('i')
        probe.style.color = 'var(--mark)'
        document.body.append(probe)
        const wanted = getComputedStyle(probe).color.match(/\d+/g).map(Number)
        probe.remove()
        const canvas = document.querySelector('.chart canvas')
        const copy = Object.assign(document.createElement('canvas'), { width: canvas.width, height: canvas.height }).getContext('2d', { willReadFrequently: true })
        copy.drawImage(canvas, 0, 0)
        const { data } = copy.getImageData(0, 0, canvas.width, canvas.height)
        let count = 0
        for (let at = 0; at < data.length; at += 4) if (data[at + 3] === 255 && wanted.every((part, of) => Math.abs(part - data[at + of]) < 3)) count += 1
        return count > 30
      }),
    )
    await shot(page, 'route')
    await page.emulateMedia({ colorScheme: 'dark' })
    await shot(page, 'route-dark')
    await page.emulateMedia({ colorScheme: 'light' })

    edit('weight: 25', 'weight: 250')
    await page.locator('#well.ill', { hasText: 'the file on disk is refused' }).waitFor()
    await page.locator('#well a').first().click()
    await page.locator('#refused', { hasText: '`weight` must be between 0 and 100' }).waitFor()
    assert.match(await page.locator('#running').innerText(), /weight: 25$/m)
    assert.match(await page.locator('#on-disk').innerText(), /weight: 250$/m)
    const all = await page.innerText('body')
    assert(!all.includes(given.secret) && all.includes('secret: ***'), 'the file is shown without its secret')
    await shot(page, 'config-refused')

    edit('weight: 250', 'weight: 75')
    await page.getByText('✓ what is on disk is in force').waitFor()
    await page.getByText('a better one is in force by now').waitFor()
    await page.locator('#well:not(.ill)').waitFor()
    await shot(page, 'config')
  },

  async differences({ given, visitor, shot, assert, eventually, edit }) {
    const page = await visitor()
    await page.context().grantPermissions(['clipboard-read', 'clipboard-write'], { origin: new URL(given.base).origin })
    await page.goto(`${given.base}#/differences/orders`)
    const row = (place) => page.locator('table.differences tr', { has: page.locator('.place code', { hasText: new RegExp(`^${place}$`) }) })
    await row('/amount').waitFor()
    await row('/at').getByText('noise').waitFor()
    assert.equal(await row('/amount').locator('.tag').count(), 0)
    assert.match(await row('/amount').innerText(), /string of 5\s+number of 4/)
    const heads = await page.locator('table.differences thead th').allInnerTexts()
    assert(heads.includes('L legacy, the client got') && heads.includes('M modern, the shadow gave'), heads.join())
    assert(!(await page.innerText('body')).includes('19.9'), 'never a value')
    await shot(page, 'differences')
    await row('/amount').getByRole('button', { name: 'copy ignore rule' }).click()
    await row('/amount').getByText('copied').waitFor()
    const rule = await page.evaluate(() => navigator.clipboard.readText())
    assert.equal(rule, 'compare:\n  ignore:\n    - /amount\n')
    // It is what the file takes: pasted in place of the route's own rules, Banyan follows it.
    edit('compare: {noise: {resend: 100}}', rule.trimEnd().replaceAll('\n', '\n    '))
    await page.goto(`${given.base}#/config`)
    await eventually('the file with the rule is in force', async () => /- \/amount/.test(await page.locator('#running').innerText()))
    await page.getByText('✓ what is on disk is in force').waitFor()
    // And the mismatch is the route's own again.
    await page.goto(`${given.base}#/route/orders`)
    await page.getByRole('link', { name: 'Differences' }).last().click()
    await page.waitForURL(/differences\/orders/)
  },

  async syncs({ given, visitor, shot, assert, eventually }) {
    const page = await visitor()
    await page.goto(`${given.base}#/syncs`)
    const flows = page.locator('table.flows tbody tr')
    await flows.filter({ hasText: 'legacy to modern' }).getByText('applying').waitFor({ timeout: 60_000 })
    await flows.filter({ hasText: 'modern to legacy' }).getByText('watching').waitFor({ timeout: 60_000 })
    await page.getByText('owned by').waitFor()
    // The watermark, and what the source keeps.
    const told = /[0-9A-F]+\/[0-9A-F]+\s+\d+ (B|kB|MB)/
    await eventually('the flow is told', async () => told.test(await flows.filter({ hasText: 'legacy to modern' }).innerText()))
    await page.locator('#well', { hasText: /sync .* behind/ }).waitFor()
    await shot(page, 'syncs')
    await page.setViewportSize({ width: 400, height: 900 })
    await fits(page, assert)
    await shot(page, 'narrow-syncs-real')
  },

  async rollout({ given, visitor, shot, assert, eventually }) {
    const viewer = await visitor()
    await viewer.goto(`${given.base}#/route/payments`)
    await viewer.getByText('Sign in with a token that may operate').waitFor()
    assert.equal(await viewer.getByRole('button', { name: 'Roll back' }).count(), 0, 'who may only look has no buttons')

    const page = await visitor()
    await page.goto(`${given.base}#token=${given.operate}`)
    await page.getByText('may operate').waitFor()
    await cell(page, 'payments', 'Split').getByText('50 % → now 5 %').waitFor()
    await shot(page, 'rollout-rows')
    await page.goto(`${given.base}#/route/payments`)
    const card = page.locator('.rollout')
    // A first start waits for somebody's word.
    await card.getByText('paused').first().waitFor()
    const act = async (label, why) => {
      await card.getByRole('button', { name: label, exact: true }).click()
      await card.locator('#reason').fill(why)
      await card.locator('form').getByRole('button').click()
    }
    await act('Resume', 'begin')
    await card.getByText('To 25 %:').waitFor()
    await card.locator('.gates li', { hasText: /≥ 1,000 requests, now [\d,]+/ }).waitFor()
    await card.locator('[aria-current="step"]', { hasText: '5 %' }).waitFor()
    await shot(page, 'rollout')

    await act('Pause', 'lunch')
    await card.getByText('paused').first().waitFor()
    await page.locator('#well', { hasText: 'payments paused' }).waitFor()
    await page.locator('.marks').getByText(/rollout\s+paused 5 %: lunch/).waitFor()
    await act('Resume', 'back again')
    await card.getByText('walking').waitFor()
    await act('Roll back', 'too many calls')
    await page.locator('#well.ill', { hasText: 'payments rolled back' }).waitFor()
    await page.locator('.marks').getByText(/rollout\s+rolled back 5 % → 0 %: too many calls/).waitFor()
    await page.locator('.facts').getByText('50 % → now 0 %').waitFor()
    await shot(page, 'rolled-back')
    // What the gates refuse is told in words.
    await act('Promote', 'I want to')
    await card.locator('[role="status"].bad').waitFor()
    await page.setViewportSize({ width: 400, height: 900 })
    await fits(page, assert)
    await shot(page, 'narrow-rolled-back')
    await page.goto(`${given.base}#/routes`)
    await page.locator('a.row', { hasText: 'payments' }).waitFor()
    await fits(page, assert)
    await eventually('the row says why', async () => /! .*too many calls/.test(await cell(page, 'payments', 'State').innerText()))
  },

  async outage({ given, visitor, shot, eventually, assert }) {
    const fs = await import('node:fs')
    const page = await visitor()
    await page.goto(given.base)
    await page.locator('a.row', { hasText: 'payments' }).waitFor()
    await page.locator('.live:not(.lost)').waitFor()
    // Banyan is stopped, and started again, by whoever started this.
    fs.writeFileSync(`${given.signals}/seen`, '')
    await page.locator('.live.lost', { hasText: 'no answer' }).waitFor()
    assert((await names(page)).length > 0, 'what was known last stays to be read')
    await shot(page, 'no-answer')
    fs.writeFileSync(`${given.signals}/lost`, '')
    await page.locator('.live:not(.lost)').waitFor({ timeout: 60_000 })
    await eventually('the rows live again', async () => (await names(page)).includes('payments'))
  },
}
