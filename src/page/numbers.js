// Numbers as people read them. `–` is "nobody knows", never "none".

export const NONE = '–'

const known = (value) => typeof value === 'number' && Number.isFinite(value)

/** `50 %`, `12.34 %`. What is not nothing is never shown as `0 %`. */
export function percent(value, decimals = 1) {
  if (!known(value)) return NONE
  if (value === 0 || value === 100) return `${value} %`
  const least = 10 ** -decimals
  if (value < least) return `< ${least} %`
  if (value > 100 - least) return `> ${(100 - least).toFixed(decimals)} %`
  return `${value.toFixed(decimals)} %`
}

/** A weight, as exact as the file has it. */
export const weight = (value) => (known(value) ? `${Number(value.toFixed(2))} %` : NONE)

/** `1,204`, `31`, `0.4`. */
export function rate(value) {
  if (!known(value)) return NONE
  if (value > 0 && value < 0.05) return '< 0.1'
  if (value > 0 && value < 10) return value.toFixed(1)
  return grouped(value)
}

export const grouped = (value) => (known(value) ? Math.round(value).toLocaleString('en-US') : NONE)

/** `0.4 ms`, `31 ms`, `2.5 s`, `10 min`. */
export function ms(value) {
  if (!known(value)) return NONE
  if (value === 0) return '0 ms'
  if (value < 9.95) return `${value.toFixed(1)} ms`
  if (value < 995) return `${Math.round(value)} ms`
  if (value < 120_000) return `${(value / 1000).toFixed(1)} s`
  return `${Math.round(value / 60_000)} min`
}

export const seconds = (value) => (known(value) ? ms(value * 1000) : NONE)

/** How long ago a second since 1970 is. */
export function ago(at, now) {
  if (!known(at) || !known(now)) return NONE
  const since = Math.max(0, now - at)
  if (since < 2) return 'now'
  if (since < 120) return `${since} s ago`
  if (since < 7200) return `${Math.round(since / 60)} min ago`
  if (since < 172_800) return `${Math.round(since / 3600)} h ago`
  return `${Math.round(since / 86_400)} d ago`
}

export function bytes(value) {
  if (!known(value)) return NONE
  if (value < 1e3) return `${value} B`
  if (value < 1e6) return `${Math.round(value / 1e3)} kB`
  if (value < 1e9) return `${Math.round(value / 1e6)} MB`
  return `${(value / 1e9).toFixed(1)} GB`
}

/** The wall clock's time of a second since 1970. */
export const clock = (at) => (known(at) ? new Date(at * 1000).toLocaleTimeString('en-GB') : NONE)

export const share = (part, whole) => (known(part) && whole > 0 ? (part * 100) / whole : null)

export const plural = (count, word) => `${grouped(count)} ${word}${count === 1 ? '' : 's'}`
