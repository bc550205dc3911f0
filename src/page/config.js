// The file: the one in force, what is on disk where that is another, and the last one that was refused, with its errors.
import { useAsked } from './ask.js'
import { html } from './html.js'
import { ago, clock, plural } from './numbers.js'

function Text({ text, id }) {
  const rows = text.replace(/\n$/, '').split('\n')
  // Numbers are the list's own, so that a selection has none of them.
  return html`<ol class="source" id=${id}>${rows.map((row) => html`<li><code>${row || ' '}</code></li>`)}</ol>`
}

export function Config({ status }) {
  const { file } = status
  // Asked again when something became of the file.
  const { data, error } = useAsked('api/v1/config', 10_000, file.last_reload_unix, file.in_force)
  if (error) return html`<p class="bad">${error.message}</p>`
  if (!data) return null
  return html`
    <section class="card" aria-label="The file">
      <h2><code>${data.file}</code></h2>
      <p>
        ${data.in_force ? html`<span class="good">✓ what is on disk is in force</span>` : html`<span class="bad">! what is on disk is refused; the one before stays in force</span>`}
        <span class="muted"> · ${plural(file.reloads, 'reload')} since the start${file.last_reload_unix ? `, the last ${ago(file.last_reload_unix, status.now_unix)}` : ''}</span>
      </p>
      ${file.restart_needed.length > 0 && html`<p class="differs">Waiting for a restart: ${file.restart_needed.join(', ')}</p>`}
    </section>
    ${data.refused &&
    html`<section class="card" aria-label="Last refused">
      <h2>${data.in_force ? 'Last refused' : 'Refused'} <span class="muted small">${clock(data.refused.at)}, ${plural(data.refused.errors, 'error')}${data.in_force ? '; a better one is in force by now' : ''}</span></h2>
      <pre class="report" id="refused">${data.refused.report}</pre>
    </section>`}
    <section class="card flush" aria-label="In force">
      <h2>In force <span class="muted small"><code>***</code> stands for what is secret</span></h2>
      <${Text} text=${data.running} id="running" />
    </section>
    ${data.on_disk !== null &&
    html`<section class="card flush" aria-label="On disk"><h2>On disk</h2><${Text} text=${data.on_disk} id="on-disk" /></section>`}
  `
}
