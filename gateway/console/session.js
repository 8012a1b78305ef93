// The signed-in session of this browser: its tokens, their renewal, and every call to the REST
// interface.
//
// The tokens live in localStorage, shared by all tabs. A refresh token is good for one use, so
// renewal runs under a lock that spans the tabs: whoever gets it first renews, the others find the
// new pair in the storage.

const STORAGE_KEY = "amaima.session";
const LOCK = "amaima.refresh";
// Renew this long before the end, so that a token does not run out on its way to the server.
const RENEW_AHEAD_MS = 30_000;

// A refusal in the server's error envelope, or status 0 when there was no answer at all.
export class ApiError extends Error {
  constructor({ status, code, message, details = [], requestId = null, retryAfter = null }) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.details = details;
    this.requestId = requestId;
    this.retryAfter = retryAfter;
  }
}

// The stored session `{access_token, refresh_token, expires_at, user}`, or null.
export function current() {
  try {
    const session = JSON.parse(localStorage.getItem(STORAGE_KEY));
    return session?.access_token && session?.refresh_token ? session : null;
  } catch {
    return null;
  }
}

// Keeps the token body of a sign-in or a renewal. The end is counted from now by this device's own
// clock, so that a clock that is off by hours does no harm.
export function keep(tokens) {
  const session = {
    access_token: tokens.access_token,
    refresh_token: tokens.refresh_token,
    expires_at: Date.now() + tokens.expires_in * 1000,
    user: tokens.user ?? current()?.user ?? null,
  };
  localStorage.setItem(STORAGE_KEY, JSON.stringify(session));
  return session;
}

// For pages that need a session: false, and on the way to the sign-in page, when there is none.
export function requireSession() {
  addEventListener("storage", (event) => {
    if ((event.key === STORAGE_KEY || event.key === null) && !current()) leave();
  });
  addEventListener("pageshow", (event) => {
    if (event.persisted && !current()) leave();
  });
  if (current()) return true;
  leave();
  return false;
}

// Forgets the session and goes to the sign-in page, which leads back here.
export function leave(reason = null) {
  localStorage.removeItem(STORAGE_KEY);
  const target = new URL("/login", location.origin);
  target.searchParams.set("next", location.pathname + location.search);
  if (reason) target.searchParams.set("reason", reason);
  location.replace(target);
}

// Where to go after signing in: the page asked for when it is one of ours, else the dashboard.
export function nextPage() {
  const wanted = new URLSearchParams(location.search).get("next");
  if (!wanted) return "/dashboard";
  try {
    const url = new URL(wanted, location.origin);
    return url.origin === location.origin ? url.pathname + url.search : "/dashboard";
  } catch {
    return "/dashboard";
  }
}

// Ends the session here and on the server. A server that cannot be reached does not keep anyone
// signed in.
export async function signOut() {
  await locked(async () => {
    const session = current();
    if (!session) return;
    try {
      await send("/v1/auth/logout", {
        method: "POST",
        body: { refresh_token: session.refresh_token },
      });
    } catch {
      // The tokens are forgotten below; the server's copy ends by itself.
    }
    localStorage.removeItem(STORAGE_KEY);
  });
  location.replace("/login");
}

// An access token that is good for at least another few seconds.
export async function accessToken() {
  const session = current();
  if (!session) {
    leave();
    throw signedOut();
  }
  if (session.expires_at - Date.now() > RENEW_AHEAD_MS) return session.access_token;
  return refresh(session.access_token);
}

// Renews the pair unless another call or tab has already replaced `stale`; returns the access token
// to use. Without an answer from the server the session stays; with a refusal it ends.
export function refresh(stale) {
  return locked(async () => {
    const session = current();
    if (!session) {
      leave();
      throw signedOut();
    }
    if (session.access_token !== stale) return session.access_token;
    try {
      const { data } = await send("/v1/auth/refresh", {
        method: "POST",
        body: { refresh_token: session.refresh_token },
      });
      return keep(data).access_token;
    } catch (error) {
      if (error.status !== 401) throw error;
      const replaced = await replacedElsewhere(stale);
      if (replaced) return replaced;
      leave("expired");
      throw signedOut();
    }
  });
}

// One call: JSON in, `{data, headers}` out, `ApiError` on a refusal. `auth: false` for calls made
// before signing in.
export async function api(path, { auth = true, ...options } = {}) {
  if (!auth) return send(path, options);
  const token = await accessToken();
  try {
    return await send(path, options, token);
  } catch (error) {
    if (error.status !== 401) throw error;
    const renewed =
      error.code === "AUTH_TOKEN_EXPIRED" ? await refresh(token) : current()?.access_token;
    if (!renewed || renewed === token) {
      leave("expired");
      throw signedOut();
    }
    return send(path, options, renewed);
  }
}

async function send(path, { method = "GET", body, headers = {} } = {}, token = null) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: {
        Accept: "application/json",
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...(token ? { Authorization: `Bearer ${token}` } : {}),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      // The session cookie is for other clients; the console proves itself by its token alone.
      credentials: "omit",
      cache: "no-store",
    });
  } catch {
    throw new ApiError({
      status: 0,
      code: "UNREACHABLE",
      message: "The server cannot be reached. Check the connection and try again.",
    });
  }
  const data = await response.json().catch(() => null);
  if (response.ok) return { data, headers: response.headers };
  throw new ApiError({
    status: response.status,
    code: data?.error?.code ?? `HTTP_${response.status}`,
    message: data?.error?.message ?? `The server answered with status ${response.status}.`,
    details: data?.error?.details ?? [],
    requestId: data?.meta?.request_id ?? response.headers.get("X-Request-ID"),
    retryAfter: response.headers.get("Retry-After"),
  });
}

function signedOut() {
  return new ApiError({
    status: 401,
    code: "SIGNED_OUT",
    message: "You have been signed out. Taking you to the sign-in page.",
  });
}

// Browsers offer locks on https and on localhost only. Elsewhere the calls of this tab are kept in
// a row, and a race with another tab is settled by `replacedElsewhere`.
let row = Promise.resolve();

function locked(work) {
  if (navigator.locks) return navigator.locks.request(LOCK, work);
  const result = row.then(work);
  row = result.catch(() => {});
  return result;
}

// The access token of another tab that used the refresh token a moment before this one, or null.
async function replacedElsewhere(stale) {
  const attempts = navigator.locks ? 1 : 10;
  for (let attempt = 0; attempt < attempts; attempt += 1) {
    const session = current();
    if (session && session.access_token !== stale) return session.access_token;
    if (attempt + 1 < attempts) await new Promise((resolve) => setTimeout(resolve, 200));
  }
  return null;
}
