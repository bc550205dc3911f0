// The syncs: who owns the rows, and how both flows fare.
import { html } from './html.js'
import { NONE, bytes, grouped, seconds } from './numbers.js'
import { Side } from './split.js'

const FLOWS = { legacy_to_modern: ['legacy', 'modern'], modern_to_legacy: ['modern', 'legacy'] }
const ILL = ['gap', 'paused', 'stopped', 'needs_snapshot']
const FROM = { file: 'as the file says; no database has answered', kept: 'as it was before; no database has answered' }

function Flow({ flow }) {
  const [from, to] = FLOWS[flow.flow]
  const ill = ILL.includes(flow.state)
  return html`
    <tr>
      <th scope="row" class="nowrap"><${Side} of=${from} /> → <${Side} of=${to} /> <span class="muted">${from} to ${to}</span></th>
      <td data-label="State"><span class=${ill ? 'bad' : ''}>${ill ? '! ' : ''}${flow.state.replaceAll('_', ' ')}</span></td>
      <td data-label="Lag" class="right">${flow.state === 'watching' ? html`<span class="muted">watches</span>` : seconds(flow.lag_seconds)}</td>
      <td data-label="Behind" class="right">${bytes(flow.lag_bytes)}</td>
      <td data-label="Watermark" class="right"><code>${flow.watermark ?? NONE}</code></td>
      <td data-label="WAL kept" class="right">${bytes(flow.retained_wal_bytes)}</td>
      <td data-label="Parked" class="right"><span class=${flow.parked ? 'bad' : ''} title=${flow.parked ? `since ${new Date(flow.parked_since_unix * 1000).toLocaleString()}: banyan sync parked list` : ''}>${flow.parked ? '! ' : ''}${Number.isInteger(flow.parked) ? grouped(flow.parked) : NONE}</span></td>
      <td data-label="Violations" class="right"><span class=${flow.violations ? 'bad' : ''}>${flow.violations ? '! ' : ''}${grouped(flow.violations)}</span></td>
    </tr>
    ${(flow.last_error || flow.waiting_for || flow.needs_verify?.length > 0) &&
    html`<tr class="why">
      <td colspan="8">
        ${flow.waiting_for && html`<div>waits for ${flow.waiting_for}</div>`}
        ${flow.needs_verify?.map((table) => html`<div class="bad">${table}: rows may have changed without an event; verify it</div>`)}
        ${flow.last_error && html`<div class=${ill ? 'bad' : ''}>last error: ${flow.last_error}</div>`}
      </td>
    </tr>`}
  `
}

function Sync({ link, sync, routes }) {
  const writes = link.writes || {}
  return html`
    <section class="card flush sync" aria-label=${`sync ${link.name}`}>
      <h2>
        ${link.name}
        <span class="muted small">owned by</span> <${Side} of=${link.owner} /> ${link.owner}
        ${FROM[link.known_from] && html`<span class="muted small">(${FROM[link.known_from]})</span>`}
        <span class="muted small">epoch ${link.epoch}</span>
        <span class="muted small end">${link.lag_seconds === null ? 'lag unknown: reads go to the owner' : `${seconds(link.lag_seconds)} behind`}</span>
      </h2>
      ${writes.is_held && html`<p class="bad pad">! its writes are held: ${grouped(writes.held)} wait</p>`}
      ${sync
        ? html`<table class="flows">
            <thead>
              <tr><th scope="col">Flow</th><th scope="col">State</th><th scope="col" class="right">Lag</th><th scope="col" class="right">Behind</th><th scope="col" class="right">Watermark</th><th scope="col" class="right">WAL kept</th><th scope="col" class="right">Parked</th><th scope="col" class="right">Violations</th></tr>
            </thead>
            <tbody>${sync.flows.map((flow) => html`<${Flow} key=${flow.flow} flow=${flow} />`)}</tbody>
          </table>`
        : html`<p class="muted pad">Its flows run in another process.</p>`}
      <p class="muted small pad">Routes: ${routes.length ? routes.join(', ') : 'none'}</p>
    </section>
  `
}

export function Syncs({ status }) {
  const links = status.links || []
  if (!links.length) return html`<p class="card empty muted">The file has no syncs: traffic moves, rows stay.</p>`
  const routes = status.proxy?.routes || []
  return links.map((link) => html`
    <${Sync} key=${link.name} link=${link} sync=${(status.syncs || []).find((sync) => sync.name === link.name)}
      routes=${routes.filter((route) => route.sync === link.name).map((route) => route.name)} />
  `)
}
