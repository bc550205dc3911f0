// One route: how it fares and fared, what changed when, what comes next, and what a person may do about it.
import { link } from './address.js'
import { call, useAsked } from './ask.js'
import { Chart } from './chart.js'
import { html, useRef, useState } from './html.js'
import { NONE, ago, clock, grouped, ms, percent, rate, share, weight } from './numbers.js'
import { Circuit, mismatch } from './routes.js'
import { Side, Split, observed } from './split.js'

const HOUR = 3600

/**
 * Slots in which nothing happened are left out by the server; here they are zeros, and gaps in what has no zero. A value stands where its
 * slot ends. As far back as there is anything, ten minutes at least: an hour of nothing says little.
 */
function columns(history, started) {
  const { step, until, slots } = history
  const bySlot = new Map(slots.map((slot) => [slot.at + step, slot]))
  const times = []
  for (let at = Math.max(Math.min(slots[0]?.at ?? until, until - 600), until - HOUR) + step; at <= until; at += step) times.push(at)
  const of = (pick, none) => times.map((at) => (bySlot.has(at) ? pick(bySlot.get(at)) : at < started ? null : none))
  return {
    times,
    legacy: of((slot) => slot.legacy / step, 0),
    modern: of((slot) => slot.modern / step, 0),
    banyan: of((slot) => slot.banyan / step, 0),
    legacyP99: of((slot) => slot.legacy_p99_ms, null),
    modernP99: of((slot) => slot.modern_p99_ms, null),
    raw: of((slot) => share(slot.mismatch, slot.compared), null),
    net: of((slot) => share(slot.mismatch - slot.noise, slot.compared), null),
  }
}

/** What a rollout did, as a mark. */
const markOf = ({ at, what, from, to, by, why }) => ({
  at,
  kind: 'rollout',
  what: `${what.replaceAll('_', ' ')} ${from === to ? weight(to) : `${weight(from)} → ${weight(to)}`}${why ? `: ${why}` : ''} (${by})`,
})

const ACTIONS = {
  pause: { label: 'Pause', told: 'The weight stays where it is until it is resumed.' },
  resume: { label: 'Resume', told: 'The rollout goes on from where it is.' },
  promote: { label: 'Promote', told: 'Takes one step; no gate is skipped.' },
  rollback: { label: 'Roll back', told: 'All users go back to legacy at once.' },
}

function Actions({ route }) {
  const [chosen, choose] = useState(null)
  const [said, say] = useState(null)
  const reason = useRef(null)
  const stands = ['paused', 'rolled_back'].includes(route.rollout.phase)
  const act = async (event) => {
    event.preventDefault()
    try {
      await call('POST', `api/v1/routes/${encodeURIComponent(route.name)}/${chosen}`, { reason: reason.current.value.trim() })
      say({ text: `${ACTIONS[chosen].label}: done` })
      setTimeout(() => say(null), 4000)
      choose(null)
    } catch (refused) {
      say({ text: refused.message, bad: true })
    }
  }
  return html`
    <div class="actions">
      <div class="buttons">
        ${[stands ? 'resume' : 'pause', 'promote', 'rollback'].map(
          (action) => html`
            <button type="button" class=${action === 'rollback' ? 'danger' : ''} aria-expanded=${chosen === action} onClick=${() => choose(chosen === action ? null : action)}>
              ${ACTIONS[action].label}
            </button>
          `,
        )}
      </div>
      ${chosen &&
      html`
        <form class="reason" onSubmit=${act}>
          <label for="reason">${ACTIONS[chosen].told} Why?</label>
          <input id="reason" ref=${reason} required maxlength="200" placeholder="kept in the history" />
          <button type="submit" class=${chosen === 'rollback' ? 'danger main' : 'main'}>${ACTIONS[chosen].label} ${route.name}</button>
        </form>
      `}
      ${said && html`<p class=${said.bad ? 'bad' : 'muted'} role="status">${said.text}</p>`}
    </div>
  `
}

const SIGNS = { holds: '✓', fails: '!', missing: '…' }

function Rollout({ route, role }) {
  const rollout = route.rollout
  if (!rollout) return null
  const { phase, step, next, steps = [], gates = [], why } = rollout
  return html`
    <section class="card rollout" aria-label="Rollout">
      <h2>
        Rollout <span class=${phase === 'rolled_back' ? 'bad' : 'stage'}>${phase === 'rolled_back' ? '! ' : ''}${phase.replaceAll('_', ' ')}</span>
        <span class="steps muted small">${steps.map((one) => html`<span class=${one === step ? 'here' : ''} aria-current=${one === step ? 'step' : undefined}>${weight(one)}</span>`)}</span>
      </h2>
      ${next != null && phase === 'walking' && gates.length > 0
        ? html`<p><b>To ${weight(next)}:</b></p>`
        : why && html`<p class=${phase === 'rolled_back' ? 'bad' : ''}>${why}</p>`}
      ${gates.length > 0 &&
      html`<ul class="gates">
        ${gates.map((gate) => html`<li class=${gate.stands}><span class=${gate.stands === 'fails' ? 'bad' : 'muted'} aria-label=${gate.stands}>${SIGNS[gate.stands]}</span> <span class="muted">${gate.gate.replaceAll('_', ' ')}</span> ${gate.words}</li>`)}
      </ul>`}
      ${role === 'operate' ? html`<${Actions} route=${route} />` : html`<p class="muted small">Sign in with a token that may operate to pause, promote or roll back.</p>`}
    </section>
  `
}

function Facts({ route, status }) {
  const { recent } = route
  const { net, raw, compared, noise } = mismatch(route)
  const side = (of) => html`
    <tr>
      <th scope="row"><${Side} of=${of} /> ${route[of] ?? NONE}</th>
      <td class="right">${rate(recent?.[of].requests_per_second)}</td>
      <td class="right">${percent(recent?.[of].error_percent)}</td>
      <td class="right">${ms(recent?.[of].p99_ms)}</td>
      <td class="right">${grouped(route.answers[of])}</td>
    </tr>
  `
  return html`
    <div class="facts">
      <section class="card" aria-label="Split">
        <h2>Split</h2>
        <${Split} route=${route} />
        <dl>
          <dt>wanted</dt><dd>${weight(route.weight_wanted)}</dd>
          <dt>effective</dt><dd>${weight(route.weight_effective)}</dd>
          <dt>observed</dt><dd>${percent(observed(route))}</dd>
          <dt>last hit</dt><dd>${ago(route.last_request_unix, status.now_unix)}</dd>
          <dt>circuit</dt><dd><${Circuit} route=${route} upstreams=${status.proxy.upstreams} /></dd>
          ${route.sync && html`<dt>sync</dt><dd><a href=${link('syncs')}>${route.sync}</a>${route.reads_at_owner ? ', reads at the owner' : ''}</dd>`}
        </dl>
      </section>
      <section class="card" aria-label="Sides">
        <h2>Sides <span class="muted small">last 10 to 20 s</span></h2>
        <table class="plain">
          <thead><tr><td /><th scope="col" class="right">req/s</th><th scope="col" class="right">errors</th><th scope="col" class="right">p99</th><th scope="col" class="right">since the start</th></tr></thead>
          <tbody>${side('legacy')}${side('modern')}</tbody>
        </table>
        ${route.compare &&
        html`<p class="compare">
          <a href=${link('differences', route.name)}>Differences</a>
          <span class="muted"> ${grouped(compared)} compared, mismatch ${percent(net, 2)}${noise > 0 ? ` net of noise, ${percent(raw, 2)} raw` : ''}</span>
        </p>`}
      </section>
    </div>
  `
}

export function Route({ status, name, role }) {
  const route = status.proxy?.routes.find((one) => one.name === name)
  // Asked again when a slot has ended; the chart changes no oftener.
  const slot = Math.floor((status.now_unix - 1) / 10)
  const named = encodeURIComponent(name)
  const { data, error } = useAsked(route && `api/v1/chart?route=${named}`, 10_000, slot)
  const acts = useAsked(route?.rollout && `api/v1/routes/${named}/history`, 10_000, route?.rollout?.since).data?.events
  const drawn = useRef({})
  if (!route) return html`<p class="card empty">There is no route <b>${name}</b>. <a href=${link('routes')}>All routes</a></p>`
  if (data && (drawn.current.data !== data || drawn.current.acts !== acts)) {
    const marks = [...data.marks, ...(acts || []).map(markOf)].sort((a, b) => a.at - b.at)
    drawn.current = { data, acts, marks: marks.map((mark, at) => ({ ...mark, number: at + 1 })), ...columns(data, status.now_unix - status.uptime_seconds) }
  }
  const { times, marks = [], ...of } = drawn.current
  const sides = (legacy, modern) => [
    { label: 'legacy', letter: 'L', name: 'legacy', values: legacy },
    { label: 'modern', letter: 'M', name: 'modern', values: modern },
  ]
  const ticks = (value) => `${Number(value.toFixed(2))}`
  return html`
    <div class="title">
      <a class="back" href=${link('routes')} aria-label="all routes">←</a>
      <h1>${route.name}</h1>
      <span class=${`stage ${route.stage}`}>${route.stage}</span>
      <span class="muted match">${(route.match || []).join(' · ') || 'what no other route matches'}</span>
    </div>
    <${Rollout} route=${route} role=${role} />
    <${Facts} route=${route} status=${status} />
    ${error && html`<p class="bad">${error.message}</p>`}
    ${times &&
    html`
      <div class="charts">
        <${Chart} title="Requests a second" times=${times} marks=${marks} format=${rate} axis=${ticks} series=${[
          ...sides(of.legacy, of.modern).map((one) => ({ ...one, fill: true })),
          { label: 'Banyan', letter: 'B', name: 'muted', values: of.banyan, dash: [4, 4] },
        ]} />
        <${Chart} title="p99" times=${times} marks=${marks} format=${ms} axis=${(value) => (value < 1000 ? `${ticks(value)} ms` : `${ticks(value / 1000)} s`)} series=${sides(of.legacyP99, of.modernP99)} top=${5} />
        ${route.compare &&
        html`<${Chart} title="Mismatch" times=${times} marks=${marks} format=${(value) => percent(value, 2)} axis=${(value) => `${ticks(value)} %`} series=${[
          { label: 'net of noise', letter: 'N', name: 'mismatch', values: of.net, fill: true },
          { label: 'raw', letter: 'R', name: 'muted', values: of.raw, dash: [4, 4] },
        ]} />`}
      </div>
      <section class="card" aria-label="Changes">
        <h2>Changes</h2>
        ${marks.length === 0
          ? html`<p class="muted">Nothing changed since Banyan started.</p>`
          : html`<ol class="marks">
              ${marks.map((mark) => html`<li><span class="number">${mark.number}</span> <time>${clock(mark.at)}</time> <span class="muted">${mark.kind}</span> ${mark.what}</li>`)}
            </ol>`}
      </section>
    `}
  `
}
