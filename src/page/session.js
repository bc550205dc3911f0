// Signing in: a token once, then a cookie. The token stays nowhere in the page.
import { call } from './ask.js'
import { html, useRef, useState } from './html.js'

/** A link with `#token=…` signs in by itself; the token is taken out of the address first. */
export function tokenOfLink() {
  const found = /^#token=(.+)$/.exec(window.location.hash)
  if (!found) return null
  window.history.replaceState(null, '', window.location.pathname)
  return decodeURIComponent(found[1])
}

export const signIn = (token) => call('POST', 'api/v1/session', { token })

export function SignIn({ done, why, leave }) {
  const [error, setError] = useState(null)
  const [busy, setBusy] = useState(false)
  const field = useRef(null)
  const submit = async (event) => {
    event.preventDefault()
    setBusy(true)
    try {
      const session = await signIn(field.current.value.trim())
      field.current.value = ''
      done(session)
    } catch (refused) {
      setError(refused.message)
      field.current.select()
    }
    setBusy(false)
  }
  return html`
    <form class="sign-in card" onSubmit=${submit} aria-label="Sign in">
      <h1>Sign in</h1>
      <p class="muted">${why}</p>
      <label for="token">Token</label>
      <input id="token" ref=${field} type="password" autocomplete="off" spellcheck=${false} required autofocus />
      ${error && html`<p class="bad" role="alert">${error}</p>`}
      <div class="buttons">
        <button type="submit" class="main" disabled=${busy}>Sign in</button>
        ${leave && html`<button type="button" onClick=${leave}>Not now</button>`}
      </div>
      <p class="muted small">
        On Banyan’s machine it is in <code>state.dir/admin.token</code>; the file may name others in <code>admin.tokens</code>.
      </p>
    </form>
  `
}
