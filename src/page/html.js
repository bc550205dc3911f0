// preact, its hooks and htm, which stand beside this as scripts of their own, under one name.
const { preact, preactHooks, htm } = window

export const html = htm.bind(preact.h)
export const { render } = preact
export const { useEffect, useLayoutEffect, useRef, useState } = preactHooks
