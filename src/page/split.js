// The split of a route as a bar: modern's share from the left, legacy's behind it, a notch for what the file wants, a dot for what was seen.
import { html } from './html.js'
import { percent, weight } from './numbers.js'

/** Always the same letter beside the same colour. */
export const Side = ({ of }) => html`<span class=${`side ${of}`} title=${of} aria-label=${of}>${of === 'legacy' ? 'L' : 'M'}</span>`

export const observed = (route) => route.recent?.modern_percent ?? route.weight_seen

export function Split({ route }) {
  const { weight_wanted: want, weight_effective: now } = route
  const seen = observed(route)
  if (!route.modern || !route.legacy) {
    const only = route.modern ? 'modern' : 'legacy'
    const why = route.modern ? 'legacy is retired' : 'no modern side yet'
    if (!route.modern && !route.legacy) return html`<span class="muted">answered by Banyan</span>`
    return html`<div class="split"><div class=${`bar only-${only}`} title=${why} /><span class="muted small">${why}</span></div>`
  }
  const differs = want !== now
  const told = `wanted ${weight(want)}, effective ${weight(now)}, observed ${percent(seen)}`
  return html`
    <div class="split" role="img" aria-label=${`modern’s share: ${told}`} title=${told}>
      <div class="bar">
        <div class="share" style=${{ width: `${now}%` }} />
        ${differs && html`<div class="want" style=${{ left: `${want}%` }} />`}
        ${seen != null && html`<div class="seen" style=${{ left: `${seen}%` }} />`}
      </div>
      <span class="small figures">
        ${differs ? html`<span class="differs">${weight(want)} → now ${weight(now)}</span>` : html`<b>${weight(now)}</b>`}
        <span class="muted">seen ${percent(seen)}</span>
      </span>
    </div>
  `
}
