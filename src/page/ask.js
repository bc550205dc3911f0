// What the page asks of Banyan. The session is a cookie that no script sees; a call that changes something says so in its headers, and the
// browser adds the origin.
import { useEffect, useState } from './html.js'

/** An answer that is none: `status` 0 where nobody answered. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail)
    this.status = status
  }
}

async function refusal(answer) {
  const problem = await answer.json().catch(() => ({}))
  return new Refused(answer.status, problem.detail || `answered ${answer.status}`)
}

async function reach(path, options) {
  try {
    return await fetch(path, { cache: 'no-store', credentials: 'same-origin', ...options })
  } catch (error) {
    if (error.name === 'AbortError') throw error
    throw new Refused(0, 'Banyan does not answer')
  }
}

export async function ask(path, signal) {
  const answer = await reach(path, { signal })
  if (!answer.ok) throw await refusal(answer)
  return answer.json()
}

export async function call(method, path, body) {
  const headers = { 'Content-Type': 'application/json', 'X-Banyan-Request': '1' }
  const answer = await reach(path, { method, headers, body: JSON.stringify(body ?? {}) })
  if (!answer.ok) throw await refusal(answer)
  return answer.status === 204 ? null : answer.json()
}

/** Reads a stream of lines to its end. */
export async function lines(path, signal, each) {
  const answer = await reach(path, { signal })
  if (!answer.ok) throw await refusal(answer)
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    const parts = (rest + value).split('\n')
    rest = parts.pop()
    parts.forEach((line) => each(JSON.parse(line)))
  }
}

/** Something that is asked again as long as it is looked at: `{data, error}`. */
export function useAsked(path, every, ...also) {
  const [asked, set] = useState({})
  useEffect(() => {
    if (!path) return undefined
    const ends = new AbortController()
    let timer
    const again = async () => {
      try {
        const data = await ask(path, ends.signal)
        set({ path, data })
      } catch (error) {
        if (ends.signal.aborted) return
        set((before) => ({ path, data: before.path === path ? before.data : undefined, error }))
      }
      timer = setTimeout(again, every)
    }
    again()
    return () => {
      ends.abort()
      clearTimeout(timer)
    }
  }, [path, every, ...also])
  return asked.path === path ? asked : {}
}
