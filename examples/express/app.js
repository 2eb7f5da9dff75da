// A list of notes per user: Express behind the gateway.
const express = require("express");

const app = express();
app.use(express.urlencoded({ extended: false }));
const notes = new Map();

const escape = (text) => text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
const page = (body) => `<!doctype html><html lang="en"><title>Notes</title><body>${body}</body></html>\n`;
const links = '<a href="/account">Your account</a> · <a href="/account/sign-out">Sign out</a>';

// The gateway sets X-User-Id and X-User-Email, and drops them from requests of clients.
const own = (request) => {
  const user = request.get("X-User-Id");
  if (!notes.has(user)) notes.set(user, []);
  return notes.get(user);
};

app.get("/", (request, response) => {
  const email = request.get("X-User-Email");
  if (email === undefined) response.send(page('<p><a href="/notes">Sign in to read your notes</a></p>'));
  else response.send(page(`<p>Hello ${escape(email)}. <a href="/notes">Your notes</a> · ${links}</p>`));
});

app.get("/notes", (request, response) => {
  const items = own(request).map((note) => `<li>${escape(note)}</li>`);
  const form = '<form method="post"><input name="text" aria-label="New note" required> <button>Add</button></form>';
  const title = `<h1>Notes of ${escape(request.get("X-User-Email"))}</h1>`;
  response.send(page(`${title}<ul>${items.join("")}</ul>${form}<p>${links}</p>`));
});

// The gateway has checked that the form comes from an own page, so the form needs no CSRF token.
app.post("/notes", (request, response) => {
  own(request).push(request.body.text);
  response.redirect(303, "/notes");
});

app.listen(process.env.UPSTREAM_PORT ?? 9000, "127.0.0.1");
