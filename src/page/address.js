// Where one is, kept in the URL's fragment, so that a reload, a bookmark and a colleague see the same:
// `#/routes?q=pay&sort=-rate`, `#/route/payments`.
import { useEffect, useState } from './html.js'

function read() {
  const [path, query] = window.location.hash.replace(/^#\/?/, '').split('?')
  const parts = path.split('/').filter(Boolean)
  let name = ''
  try {
    name = decodeURIComponent(parts.slice(1).join('/'))
  } catch {
    // A link that was cut names nothing.
  }
  return { view: parts[0] || 'routes', name, params: new URLSearchParams(query || '') }
}

/** `#/route/payments?…` */
export function link(view, name = '', params = {}) {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value)).toString()
  return `#/${view}${name ? `/${encodeURIComponent(name)}` : ''}${query ? `?${query}` : ''}`
}

/** Goes there; `quietly` leaves no step for the back button. */
export function go(to, quietly = false) {
  if (quietly) {
    window.history.replaceState(null, '', to)
    window.dispatchEvent(new HashChangeEvent('hashchange'))
  } else {
    window.location.hash = to
  }
}

export function useAddress() {
  const [address, set] = useState(read)
  useEffect(() => {
    const changed = () => set(read())
    window.addEventListener('hashchange', changed)
    return () => window.removeEventListener('hashchange', changed)
  }, [])
  return address
}
