// One chart over the last hour, by uPlot, with a line at each change. Its legend tells the newest values, or those under the pointer.
import { html, useEffect, useRef, useState } from './html.js'
import { clock } from './numbers.js'

const { uPlot } = window
const HEIGHT = 180

/** A colour of the page as it is now, light or dark. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()

/** Lines at the changes, with the numbers that the list below has. */
const marked = (marks) => (plot) => {
  const { ctx, bbox } = plot
  const ratio = window.devicePixelRatio || 1
  ctx.save()
  ctx.strokeStyle = colour('mark')
  ctx.fillStyle = colour('mark')
  ctx.lineWidth = Math.round(ratio)
  ctx.font = `${10 * ratio}px system-ui, sans-serif`
  ctx.textAlign = 'center'
  ctx.setLineDash([3 * ratio, 3 * ratio])
  let before = -Infinity
  marks.forEach((mark) => {
    // On a pixel, so that it is as sharp as the axes.
    const x = Math.round(plot.valToPos(mark.at, 'x', true)) + (ctx.lineWidth % 2) / 2
    if (x < bbox.left || x > bbox.left + bbox.width) return
    ctx.beginPath()
    ctx.moveTo(x, bbox.top)
    ctx.lineTo(x, bbox.top + bbox.height)
    ctx.stroke()
    // Those that lie on each other are told in the list.
    if (x - before > 14 * ratio) {
      ctx.fillText(mark.number, x, bbox.top - 4 * ratio)
      before = x
    }
  })
  ctx.restore()
}

/** A slot between two without anything is a point, not a line. */
const alone = (values) => values.flatMap((value, at) => (value != null && values[at - 1] == null && values[at + 1] == null ? [at] : []))

function options({ series, axis, marks, width, top, pointed }) {
  const look = { stroke: colour('muted'), grid: { stroke: colour('line'), width: 1 }, ticks: { show: false }, font: '11px system-ui, sans-serif', gap: 6 }
  return {
    width,
    height: HEIGHT,
    padding: [16, 10, 0, 0],
    cursor: { sync: { key: 'route' }, points: { size: 6 }, drag: { x: false, y: false }, y: false },
    legend: { show: false },
    scales: { x: { time: true }, y: { range: (_, __, most) => [0, Math.max(top, (most || 0) * 1.1)] } },
    axes: [
      { ...look, space: 70, size: 26, values: (_, ticks) => ticks.map((at) => clock(at).slice(0, 5)) },
      { ...look, space: 34, size: 58, values: (_, ticks) => ticks.map(axis) },
    ],
    series: [
      {},
      ...series.map(({ name, dash, fill }) => ({
        stroke: colour(name),
        width: 1.75,
        dash,
        fill: fill ? colour(`${name}-fill`) : undefined,
        spanGaps: false,
        points: { show: true, size: 5, filter: (plot, at) => alone(plot.data[at]) },
      })),
    ],
    hooks: { draw: [marked(marks)], setCursor: [(plot) => pointed(plot.cursor.idx ?? null)] },
  }
}

/** `series`: `[{label, name, values}]` over `times`; `format` for values, `axis` for the ticks. */
export function Chart({ title, times, series, format, axis, marks, top = 1 }) {
  const place = useRef(null)
  const plot = useRef(null)
  const [at, pointed] = useState(null)
  useEffect(() => {
    const data = [times, ...series.map(({ values }) => values)]
    const wide = () => Math.max(200, place.current.clientWidth)
    const begin = () => {
      plot.current?.destroy()
      plot.current = new uPlot(options({ series, axis, marks, top, pointed, width: wide() }), data, place.current)
    }
    begin()
    // Colours are drawn, not styled.
    const dark = window.matchMedia('(prefers-color-scheme: dark)')
    dark.addEventListener('change', begin)
    const sized = new ResizeObserver(() => plot.current.width !== wide() && plot.current.setSize({ width: wide(), height: HEIGHT }))
    sized.observe(place.current)
    return () => {
      sized.disconnect()
      dark.removeEventListener('change', begin)
      plot.current?.destroy()
      plot.current = null
    }
  }, [times, marks])
  const shown = at !== null && at < times.length ? at : times.length - 1
  return html`
    <figure class="card chart" aria-label=${title}>
      <figcaption>
        <b>${title}</b>
        <span class="muted small">${clock(times[shown])}</span>
        <span class="legend small">
          ${series.map(({ label, letter, name, values }) => html`<span><span class=${`key ${name}`}>${letter || '–'}</span> ${label} <b>${format(values[shown])}</b></span>`)}
        </span>
      </figcaption>
      <div ref=${place} class="plot" />
    </figure>
  `
}
