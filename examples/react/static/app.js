// A single page without a build step. It holds no token: the browser sends the session cookie by itself.
const { createElement: h, useEffect, useState } = React;

async function api(path, options) {
  const response = await fetch(path, options);
  if (response.status === 401) location.assign(`/account/sign-in?return_to=${encodeURIComponent(location.pathname)}`);
  if (!response.ok) throw new Error((await response.json()).detail);
  return response.json();
}

function Notes({ email }) {
  const [notes, setNotes] = useState([]);
  useEffect(() => {
    api("/api/notes").then(setNotes);
  }, []);
  async function add(event) {
    event.preventDefault();
    const form = event.target;
    const body = JSON.stringify({ text: form.text.value });
    setNotes(await api("/api/notes", { method: "POST", headers: { "Content-Type": "application/json" }, body }));
    form.reset();
  }
  return h(
    "main",
    null,
    h("h1", null, `Notes of ${email}`),
    h("ul", null, notes.map((note, number) => h("li", { key: number }, note))),
    h("form", { onSubmit: add }, h("label", null, "New note ", h("input", { name: "text", required: true })), h("button", null, "Add")),
    h("p", null, h("a", { href: "/account" }, "Your account"), " · ", h("a", { href: "/account/sign-out" }, "Sign out")),
  );
}

function App() {
  const [session, setSession] = useState(null);
  useEffect(() => {
    api("/auth/session").then(setSession);
  }, []);
  if (session === null) return h("p", null, "Loading");
  if (!session.signed_in) return h("a", { href: "/account/sign-in?return_to=/" }, "Sign in");
  return h(Notes, { email: session.user.email });
}

ReactDOM.createRoot(document.getElementById("app")).render(h(App));
