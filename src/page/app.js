// The page: who looks at it, the stream that it lives on, and its views.
import { go, link, useAddress } from './address.js'
import { ask, call, lines } from './ask.js'
import { Config } from './config.js'
import { Differences } from './differences.js'
import { html, render, useEffect, useState } from './html.js'
import { Route } from './route.js'
import { Routes } from './routes.js'
import { SignIn, signIn, tokenOfLink } from './session.js'
import { Syncs } from './syncs.js'
import { Well } from './well.js'

const VIEWS = { routes: 'Routes', differences: 'Differences', syncs: 'Syncs', config: 'Config' }

/** Who looks: `undefined` while that is asked, `null` where a token is needed, else `{role}`. */
function useSession() {
  const [session, set] = useState(undefined)
  useEffect(() => {
    const begin = async () => {
      const token = tokenOfLink()
      try {
        set(token ? await signIn(token) : await ask('api/v1/session'))
      } catch (refused) {
        if (refused.status === 401) set(null)
        else setTimeout(begin, 2000)
      }
    }
    begin()
  }, [])
  return [session, set]
}

/** The newest status, and since when there is none. Begins anew when a stream ends, which each does after a minute. */
function useStream(session, signedOut) {
  const [status, setStatus] = useState(null)
  const [isLive, setLive] = useState(false)
  useEffect(() => {
    if (!session) return undefined
    const ends = new AbortController()
    let timer
    const begin = async () => {
      let wait = 0
      try {
        await lines('api/v1/stream', ends.signal, (line) => {
          setStatus(line)
          setLive(true)
        })
      } catch (error) {
        if (ends.signal.aborted) return
        if (error.status === 401) return signedOut()
        wait = 1000
        setLive(false)
      }
      timer = setTimeout(begin, wait)
    }
    begin()
    return () => {
      ends.abort()
      clearTimeout(timer)
    }
  }, [session])
  return [status, isLive]
}

function Bar({ view, session, status, isLive, wantsIn, out }) {
  const shown = view === 'route' ? 'routes' : view
  return html`
    <header>
      <a class="brand" href=${link('routes')}>
        <svg width="18" height="18" viewBox="0 0 18 18" aria-hidden="true"><path d="M9 1v16M9 6c-5 0-6 4-6 11M9 6c5 0 6 4 6 11" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" /></svg>
        Banyan
      </a>
      <nav aria-label="Views">
        ${Object.entries(VIEWS).map(([name, label]) => html`<a href=${link(name)} aria-current=${shown === name ? 'page' : undefined}>${label}</a>`)}
      </nav>
      <span class="end who">
        ${session &&
        html`<span class=${isLive ? 'live' : 'live lost'} role="status">${isLive ? 'live' : 'no answer'}</span>
          <span class="muted small version">${status ? `v${status.version}` : ''}</span>
          ${session.role
            ? html`<span class="muted small">may ${session.role}</span><button type="button" class="quiet small" onClick=${out}>Sign out</button>`
            : html`<button type="button" class="quiet small" onClick=${wantsIn}>Sign in</button>`}`}
      </span>
    </header>
  `
}

function App() {
  const { view, name, params } = useAddress()
  const [session, setSession] = useSession()
  const [wantsIn, setWantsIn] = useState(false)
  const [status, isLive] = useStream(session, () => setSession(null))

  useEffect(() => {
    document.title = `${view === 'route' && name ? name : VIEWS[view] || 'Routes'} · Banyan`
  }, [view, name])
  useEffect(() => {
    const key = (event) => {
      if (event.key === 'Escape' && view === 'route' && !event.target.matches?.('input')) go(link('routes'))
    }
    document.addEventListener('keydown', key)
    return () => document.removeEventListener('keydown', key)
  }, [view])

  const out = async () => {
    await call('DELETE', 'api/v1/session').catch(() => {})
    // Where reading takes no token the page goes on without one.
    setSession(await ask('api/v1/session').catch(() => null))
  }
  const signedIn = (next) => {
    setSession(next)
    setWantsIn(false)
  }
  const bar = html`<${Bar} ...${{ view, session, status, isLive, out }} wantsIn=${() => setWantsIn(true)} />`
  if (session === undefined) return html`${bar}<main><p class="muted">…</p></main>`
  if (session === null || wantsIn) {
    const why = session ? 'To change something, with a token that may operate.' : 'This Banyan shows itself to whoever holds a token.'
    return html`${bar}<main><${SignIn} done=${signedIn} why=${why} leave=${session && (() => setWantsIn(false))} /></main>`
  }
  if (!status) return html`${bar}<main><p class="muted">${isLive ? '…' : 'Waiting for Banyan…'}</p></main>`
  const views = {
    routes: () => html`<${Routes} status=${status} params=${params} />`,
    route: () => html`<${Route} key=${name} status=${status} name=${name} role=${session.role} />`,
    differences: () => html`<${Differences} status=${status} name=${name} params=${params} />`,
    syncs: () => html`<${Syncs} status=${status} />`,
    config: () => html`<${Config} status=${status} />`,
  }
  return html`
    ${bar}
    <main class=${isLive ? '' : 'stale'} id="main">
      <${Well} status=${status} />
      ${(views[view] || views.routes)()}
    </main>
  `
}

render(html`<${App} />`, document.getElementById('app'))
