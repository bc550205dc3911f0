// "Is it well?": one sentence above everything. What needs a person comes first, and is the only red thing on the page.
import { link } from './address.js'
import { html } from './html.js'
import { plural, seconds } from './numbers.js'

/** Parts of the sentence: `{text, bad, to}`. */
export function parts(status) {
  const file = status.file || {}
  const routes = status.proxy?.routes || []
  const bad = []
  const also = []
  if (status.ready === false) bad.push({ text: 'Banyan is stopping' })
  if (file.in_force === false) {
    const text = `the file on disk is refused, the old one is in force (${plural(file.errors || 1, 'error')})`
    bad.push({ text, to: link('config') })
  }
  for (const route of routes) {
    const rollout = route.rollout
    if (rollout?.phase === 'rolled_back') bad.push({ text: `${route.name} rolled back`, to: link('route', route.name) })
    if (rollout?.phase === 'paused') also.push({ text: `${route.name} paused`, to: link('route', route.name) })
  }
  for (const upstream of status.proxy?.upstreams || []) {
    if (upstream.is_down) bad.push({ text: `upstream ${upstream.name} is down` })
    else if (upstream.circuit === 'open') bad.push({ text: `circuit of ${upstream.name} is open` })
    else if (upstream.circuit === 'half_open') also.push({ text: `circuit of ${upstream.name} is half open` })
  }
  for (const listener of status.proxy?.listeners || []) {
    if (listener.tls_trouble) bad.push({ text: `certificates of ${listener.bind} are refused` })
  }
  if (status.admin?.tls_trouble) bad.push({ text: 'certificates of the admin listener are refused' })
  if (file.restart_needed?.length) {
    also.push({ text: `waiting for a restart: ${file.restart_needed.join(', ')}`, to: link('config') })
  }
  const clashes = status.proxy?.cookie_clashes || []
  if (clashes.length) also.push({ text: `both sides set ${clashes.length === 1 ? `cookie ${clashes[0].cookie}` : plural(clashes.length, 'cookie')}` })
  for (const sync of status.syncs || []) {
    if (sync.parked) bad.push({ text: `sync ${sync.name}: ${plural(sync.parked, 'transaction')} parked`, to: link('syncs') })
    for (const flow of sync.flows) {
      if (['gap', 'paused', 'stopped', 'needs_snapshot'].includes(flow.state)) {
        bad.push({ text: `sync ${sync.name} ${flow.flow.replaceAll('_', ' ')} ${flow.state.replace('_', ' ')}`, to: link('syncs') })
      }
    }
  }
  for (const one of status.links || []) {
    const atOwner = routes.some((route) => route.sync === one.name && route.reads_at_owner)
    const lag = one.lag_seconds === null ? 'lag unknown' : `${seconds(one.lag_seconds)} behind`
    also.push({ text: `sync ${one.name} ${lag}${atOwner ? ', its reads go to the owner' : ''}`, to: link('syncs') })
  }
  const differ = routes.filter((route) => route.weight_wanted !== route.weight_effective).length
  if (!bad.length) {
    const text = differ ? `${plural(differ, 'route')} of ${routes.length} not yet as wanted` : routes.length === 1 ? 'Its one route as wanted' : `All ${plural(routes.length, 'route')} as wanted`
    also.unshift({ text: routes.length ? text : 'Only flows run here' })
  }
  return [...bad.map((part) => ({ ...part, bad: true })), ...also]
}

export function Well({ status }) {
  const all = parts(status)
  const isWell = !all.some((part) => part.bad)
  return html`
    <p class=${isWell ? 'well' : 'well ill'} id="well">
      <span class="sign" aria-hidden="true">${isWell ? '✓' : '!'}</span>
      <span>
        ${all.map(
          (part, at) => html`${at > 0 && html`<span class="muted" aria-hidden="true"> · </span>`}<span class=${part.bad ? 'bad' : ''}
              >${part.to ? html`<a href=${part.to}>${part.text}</a>` : part.text}</span
            >`,
        )}
      </span>
    </p>
  `
}
