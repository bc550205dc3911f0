// All routes, one row each: sortable, filtered, both kept in the address.
import { go, link } from './address.js'
import { html, useEffect, useRef } from './html.js'
import { NONE, ago, grouped, ms, percent, rate, share } from './numbers.js'
import { Side, Split } from './split.js'

const STAGES = ['legacy', 'shadow', 'canary', 'modern', 'retired', 'banyan']

/** Net of noise, since the rules of comparing last changed. */
export function mismatch(route) {
  const { compared, mismatch: raw, noise } = route.compare || {}
  return { net: share(raw - noise, compared), raw: share(raw, compared), compared, noise }
}

const COLUMNS = {
  name: { label: 'Route', of: (route) => route.name, text: true },
  stage: { label: 'Stage', of: (route) => STAGES.indexOf(route.stage) },
  split: { label: 'Split', of: (route) => (route.legacy || route.modern ? route.weight_effective : -1) },
  rate: { label: 'Req/s', of: (route) => route.recent?.requests_per_second, right: true },
  'legacy-errors': { label: 'errors', of: (route) => route.recent?.legacy.error_percent, right: true, side: 'legacy' },
  'legacy-p99': { label: 'p99', of: (route) => route.recent?.legacy.p99_ms, right: true, side: 'legacy' },
  'modern-errors': { label: 'errors', of: (route) => route.recent?.modern.error_percent, right: true, side: 'modern' },
  'modern-p99': { label: 'p99', of: (route) => route.recent?.modern.p99_ms, right: true, side: 'modern' },
  mismatch: { label: 'Mismatch', of: (route) => mismatch(route).net, right: true },
  hit: { label: 'Last hit', of: (route) => route.last_request_unix, right: true },
  state: { label: 'State', of: (route) => route.why || '', text: true },
}

/** `-rate` is downwards. What nobody knows is last either way. */
function sorted(routes, sort) {
  const [name, down] = sort.startsWith('-') ? [sort.slice(1), -1] : [sort, 1]
  const column = COLUMNS[name]
  if (!column) return routes
  const compare = (a, b) => (column.text ? String(a).localeCompare(String(b)) : a - b)
  return [...routes].sort((left, right) => {
    const [a, b] = [column.of(left) ?? null, column.of(right) ?? null]
    if (a === null || b === null) return (a === null) - (b === null)
    return down * compare(a, b) || left.name.localeCompare(right.name)
  })
}

export function matches(route, words) {
  const text = [route.name, ...(route.match || []), route.stage, route.legacy, route.modern, route.sync, route.why].join(' ').toLowerCase()
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word))
}

const Errors = ({ side }) => {
  const errors = side?.error_percent
  if (errors == null) return html`<span class="muted">${NONE}</span>`
  const told = `${grouped(side.failed)} of ${grouped(side.attempts)} attempts failed`
  return errors >= 1
    ? html`<span class="bad" title=${told}>▲ ${percent(errors)}</span>`
    : html`<span class=${errors === 0 ? 'muted' : ''} title=${told}>${percent(errors)}</span>`
}

const Mismatch = ({ route }) => {
  const { net, raw, compared, noise } = mismatch(route)
  if (net === null) return html`<span class="muted">${NONE}</span>`
  const told = `${grouped(compared)} compared; raw ${percent(raw, 2)}, net of noise ${percent(net, 2)}`
  return html`<a href=${link('differences', route.name)} title=${told}>${percent(net, 2)}</a>${noise > 0 && html`<span class="muted small raw">raw ${percent(raw)}</span>`}`
}

const WORDS = { closed: 'closed', open: 'open', half_open: 'half open' }

/** Of both sides' upstreams, the one that has something to tell. */
export function Circuit({ route, upstreams }) {
  const names = [route.legacy, route.modern].filter(Boolean)
  const own = upstreams.filter((upstream) => names.includes(upstream.name))
  const down = own.find((upstream) => upstream.is_down)
  if (down) return html`<span class="bad">! ${down.name} is down</span>`
  const open = own.find((upstream) => upstream.circuit && upstream.circuit !== 'closed')
  if (open) return html`<span class="bad">! ${open.name} ${WORDS[open.circuit]}</span>`
  return html`<span class="muted">${own.some((upstream) => upstream.circuit) ? WORDS.closed : NONE}</span>`
}

/** Why the route is not as the file wants it, else its circuit. */
function State({ route, upstreams }) {
  const phase = route.rollout?.phase
  // What a rollout waits for, or that somebody paused it, is no trouble.
  if (route.why && route.why === route.rollout?.why && phase !== 'rolled_back') return html`<span class=${phase === 'paused' ? '' : 'muted'}>${route.why}</span>`
  if (route.why) return html`<span class="bad">! ${route.why}</span>`
  if (route.reads_at_owner) return html`<span class="differs">reads at the owner</span>`
  return html`<${Circuit} route=${route} upstreams=${upstreams} />`
}

function Row({ route, status }) {
  const recent = route.recent
  const match = (route.match || []).join(' · ') || 'what no other route matches'
  return html`
    <tr>
      <th scope="row" class="name">
        <a class="row" href=${link('route', route.name)}>${route.name}</a>
        <span class="muted small match" title=${match}>${match}</span>
      </th>
      <td data-label="Stage"><span class=${`stage ${route.stage}`}>${route.stage}</span></td>
      <td data-label="Split" class="wide"><${Split} route=${route} /></td>
      <td data-label="Req/s" class="right">${rate(recent?.requests_per_second)}</td>
      <td data-label="Legacy errors" class="right of-legacy"><${Errors} side=${recent?.legacy} /></td>
      <td data-label="Legacy p99" class=${`right of-legacy ${recent?.legacy.p99_ms == null ? 'muted' : ''}`}>${ms(recent?.legacy.p99_ms)}</td>
      <td data-label="Modern errors" class="right of-modern"><${Errors} side=${recent?.modern} /></td>
      <td data-label="Modern p99" class=${`right of-modern ${recent?.modern.p99_ms == null ? 'muted' : ''}`}>${ms(recent?.modern.p99_ms)}</td>
      <td data-label="Mismatch" class="right"><${Mismatch} route=${route} /></td>
      <td data-label="Last hit" class="right nowrap">${ago(route.last_request_unix, status.now_unix)}</td>
      <td data-label="State" class="state" title=${route.why}><div class="clamp"><${State} route=${route} upstreams=${status.proxy.upstreams} /></div></td>
    </tr>
  `
}

const Head = ({ name, sort, by }) => {
  const { label, right, side } = COLUMNS[name]
  const is = sort === name ? 'ascending' : sort === `-${name}` ? 'descending' : null
  // Names go upwards first, numbers downwards: the large ones are looked for.
  const next = is ? (is === 'ascending' ? `-${name}` : name) : COLUMNS[name].text || name === 'stage' ? name : `-${name}`
  const told = side ? `${side} ${label}` : label
  return html`
    <th scope="col" class=${`${right ? 'right' : ''} ${side ? `of-${side}` : ''}`} aria-sort=${is || 'none'}>
      <button type="button" onClick=${() => by(next)} aria-label=${`sort by ${told}`}>
        ${label}<span class="arrow" aria-hidden="true">${is === 'ascending' ? '↑' : is ? '↓' : ''}</span>
      </button>
    </th>
  `
}

export function Routes({ status, params }) {
  const [words, sort] = [params.get('q') || '', params.get('sort') || '']
  const field = useRef(null)
  const to = (change) => go(link('routes', '', { q: words, sort, ...change }), true)
  const routes = status.proxy?.routes || []
  const shown = sorted(routes.filter((route) => matches(route, words)), sort)

  // `/` to the filter, j and k or the arrows along the rows.
  useEffect(() => {
    const key = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return
      const typing = event.target.matches?.('input, textarea, select')
      if (event.key === '/' && !typing) {
        event.preventDefault()
        field.current?.focus()
      }
      const step = { j: 1, k: -1, ArrowDown: 1, ArrowUp: -1 }[event.key]
      if (step && (!typing || (event.target === field.current && event.key.startsWith('Arrow')))) {
        const rows = [...document.querySelectorAll('a.row')]
        const at = rows.indexOf(document.activeElement)
        const next = rows[at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + step))]
        if (next) {
          event.preventDefault()
          next.focus()
        }
      }
      if (event.key === 'Escape' && event.target === field.current) {
        to({ q: '' })
        field.current.blur()
      }
    }
    document.addEventListener('keydown', key)
    return () => document.removeEventListener('keydown', key)
  })

  const columns = Object.keys(COLUMNS)
  return html`
    <div class="tools">
      <label class="field">
        <span class="hidden">Filter routes</span>
        <input ref=${field} id="filter" type="search" placeholder="Filter  /" value=${words} onInput=${(event) => to({ q: event.target.value })} />
      </label>
      <label class="field small-only">
        <span class="hidden">Sort by</span>
        <select value=${sort} onChange=${(event) => to({ sort: event.target.value })}>
          <option value="">as in the file</option>
          ${columns.map((name) => {
            const { label, side, text } = COLUMNS[name]
            return html`<option value=${text || name === 'stage' ? name : `-${name}`}>by ${side ? `${side} ${label}` : label.toLowerCase()}</option>`
          })}
        </select>
      </label>
      <span class="muted small" aria-live="polite">${shown.length === routes.length ? '' : `${shown.length} of ${routes.length}`}</span>
      ${sort && html`<button type="button" class="quiet small" onClick=${() => to({ sort: '' })}>order of the file</button>`}
      <span class="muted small end wide-only">rates, errors and p99 of the last 10 to 20 s</span>
    </div>
    <div class="card flush">
      <table class="routes">
        <thead>
          <tr class="groups" aria-hidden="true">
            <td colspan="4" />
            <td colspan="2" class="of-legacy"><${Side} of="legacy" /> legacy</td>
            <td colspan="2" class="of-modern"><${Side} of="modern" /> modern</td>
            <td colspan="3" />
          </tr>
          <tr>
            ${columns.map((name) => html`<${Head} key=${name} name=${name} sort=${sort} by=${(next) => to({ sort: next })} />`)}
          </tr>
        </thead>
        <tbody>
          ${shown.map((route) => html`<${Row} key=${route.name} route=${route} status=${status} />`)}
        </tbody>
      </table>
      ${shown.length === 0 && html`<p class="empty muted">${routes.length ? 'No route matches the filter.' : 'This process answers no requests.'}</p>`}
    </div>
  `
}
