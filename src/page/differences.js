// In what the answers of both sides differ: grouped by place, both sides beside each other, what is noise, and the rule that ignores it.
import { go, link } from './address.js'
import { useAsked } from './ask.js'
import { html, useState } from './html.js'
import { NONE, clock, grouped, ms, percent, plural, share } from './numbers.js'
import { Side } from './split.js'

const WHILES = { 900: '15 min', 3600: '1 h', 21600: '6 h', 86400: '1 day' }

/** What the file takes to leave these places out. */
export const ignoreRule = (places) => `compare:\n  ignore:\n${places.map((place) => `    - ${/^[\w/*.~-]+$/.test(place) ? place : `'${place.replaceAll("'", "''")}'`}`).join('\n')}\n`

const isPointer = (place) => place.startsWith('/')

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    // Without TLS and not on this machine there is no clipboard for scripts; the old way takes a selection.
    const field = document.createElement('textarea')
    field.value = text
    field.className = 'hidden'
    document.body.append(field)
    field.select()
    document.execCommand('copy')
    field.remove()
  }
}

function Copy({ places, label = 'copy ignore rule' }) {
  const [done, set] = useState(false)
  const click = async () => {
    await copy(ignoreRule(places))
    set(true)
    setTimeout(() => set(false), 2000)
  }
  return html`<button type="button" class="quiet small copy" onClick=${click} title=${ignoreRule(places)}>${done ? 'copied ✓' : label}</button>`
}

/** `string of 5`; types and lengths, never a value. */
const found = (kind, length) => (['string', 'number', 'array', 'object', 'bytes'].includes(kind) ? html`${kind} <span class="muted">of ${grouped(length)}</span>` : kind)

/** Which side answered the clients, where that is one side. */
function answering(route) {
  if (route.weight_effective === 0) return ['legacy', 'modern']
  if (route.weight_effective === 100) return ['modern', 'legacy']
  return [null, null]
}

function Trend({ trend }) {
  const most = Math.max(...trend.map((piece) => share(piece.mismatch, piece.compared) || 0), 0.0001)
  return html`
    <div class="trend" role="img" aria-label="mismatch over time">
      ${trend.map((piece) => {
        const height = ((share(piece.mismatch, piece.compared) || 0) * 100) / most
        return html`<span title=${`${clock(piece.since)}: ${grouped(piece.mismatch)} of ${grouped(piece.compared)}`}><i style=${{ height: `${Math.max(4, height)}%` }} /></span>`
      })}
    </div>
  `
}

function Report({ route, report }) {
  const { compared, mismatch, noise, differences } = report
  const net = noise ? mismatch - noise.mismatch : mismatch
  const [control, candidate] = answering(route)
  const unsaid = Object.entries(report.not_comparable)
  const noisy = differences.filter((one) => one.is_noise && isPointer(one.place)).map((one) => one.place)
  return html`
    <section class="card figures-row" aria-label="Summary">
      <div><b>${grouped(compared)}</b><span>compared</span></div>
      <div><b>${percent(share(report.match, compared), 2)}</b><span>match</span></div>
      <div><b>${percent(share(mismatch, compared), 2)}</b><span>mismatch, raw</span></div>
      <div><b>${noise ? percent(share(net, compared), 2) : NONE}</b><span>${noise ? 'net of noise' : 'noise is not learnt'}</span></div>
      <div><b>${grouped(report.ignored)}</b><span>only what is ignored</span></div>
      <div><b>${grouped(unsaid.reduce((sum, [, count]) => sum + count, 0))}</b><span>not comparable${unsaid.length ? ` (${unsaid.map(([why]) => why.replaceAll('_', ' ')).join(', ')})` : ''}</span></div>
      <div><b>${ms(report.latency.legacy?.p99_ms)}</b><span><${Side} of="legacy" /> p99</span></div>
      <div><b>${ms(report.latency.modern?.p99_ms)}</b><span><${Side} of="modern" /> p99</span></div>
      ${report.trend.length > 1 && html`<div class="end"><${Trend} trend=${report.trend} /><span>trend</span></div>`}
    </section>
    ${!noise && compared > 0 && html`<p class="muted small hint">Places that differ by themselves are told apart with <code>compare: {noise: {resend: 1}}</code>.</p>`}
    ${noisy.length > 1 && html`<p class="hint"><${Copy} places=${noisy} label=${`copy one rule for all ${noisy.length} noisy places`} /></p>`}
    <div class="card flush">
      <table class="differences">
        <thead>
          <tr>
            <th scope="col">Where</th>
            <th scope="col" class="right">How often</th>
            <th scope="col">${control ? html`<${Side} of=${control} /> ${control}, ` : ''}the client got</th>
            <th scope="col">${candidate ? html`<${Side} of=${candidate} /> ${candidate}, ` : ''}the shadow gave</th>
            <th scope="col">Newest</th>
            <th scope="col"><span class="hidden">Rule</span></th>
          </tr>
        </thead>
        <tbody>
          ${differences.map(
            (one) => html`
              <tr class=${one.is_noise ? 'noise' : ''} key=${`${one.place} ${one.control} ${one.candidate}`}>
                <th scope="row" class="place"><code>${one.place}</code> ${one.is_noise && html`<span class="tag">noise</span>`}</th>
                <td data-label="How often" class="right nowrap">
                  ${percent(share(one.count, compared), 2)} <span class="muted small">${grouped(one.count)}${one.may_be_more ? ' or more' : ''} of ${grouped(compared)}</span>
                </td>
                <td data-label="The client got">${found(one.control, one.example.control_length)}</td>
                <td data-label="The shadow gave">${found(one.candidate, one.example.candidate_length)}</td>
                <td data-label="Newest" class="nowrap muted">${one.example.method} ${clock(one.example.at)}</td>
                <td class="right">${isPointer(one.place) && html`<${Copy} places=${[one.place]} />`}</td>
              </tr>
            `,
          )}
        </tbody>
      </table>
      ${differences.length === 0 && html`<p class="empty muted">${compared ? 'No difference.' : 'Nothing was compared in this while.'}</p>`}
    </div>
  `
}

export function Differences({ status, name, params }) {
  const compared = (status.proxy?.routes || []).filter((route) => route.compare)
  const route = compared.find((one) => one.name === name) || (name ? null : compared[0])
  const within = WHILES[params.get('within')] ? params.get('within') : '3600'
  const { data, error } = useAsked(route && `api/v1/report?route=${encodeURIComponent(route.name)}&within=${within}`, 5000)
  if (!compared.length) {
    return html`<p class="card empty muted">No route compares answers yet. Give one <code>shadow: {percent: 100}</code> and <code>compare: {}</code>.</p>`
  }
  if (!route) return html`<p class="card empty muted">Route <b>${name}</b> compares nothing. <a href=${link('differences')}>Routes that do</a></p>`
  return html`
    <div class="tools">
      <label class="field"><span class="hidden">Route</span>
        <select id="compared" value=${route.name} onChange=${(event) => go(link('differences', event.target.value, { within: params.get('within') }))}>
          ${compared.map((one) => html`<option value=${one.name}>${one.name}</option>`)}
        </select>
      </label>
      <label class="field"><span class="hidden">How far back</span>
        <select value=${within} onChange=${(event) => go(link('differences', route.name, { within: event.target.value }), true)}>
          ${Object.entries(WHILES).map(([value, label]) => html`<option value=${value}>last ${label}</option>`)}
        </select>
      </label>
      <a class="small" href=${link('route', route.name)}>charts of ${route.name}</a>
      <span class="muted small end">types and lengths, never a value</span>
    </div>
    ${error && html`<p class="bad">${error.message}</p>`}
    ${data && html`<${Report} route=${route} report=${data} />`}
    ${data?.noise?.resent > 0 && html`<p class="muted small hint">${plural(data.noise.resent, 'read')} sent twice to learn the noise.</p>`}
  `
}
