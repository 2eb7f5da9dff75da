<?php
// A list of notes per user: PHP behind the gateway. The gateway sets X-User-Id and X-User-Email, and drops them from
// requests of clients.
$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
$user = $_SERVER['HTTP_X_USER_ID'] ?? null;
$email = htmlspecialchars($_SERVER['HTTP_X_USER_EMAIL'] ?? '');
$links = '<a href="/account">Your account</a> · <a href="/account/sign-out">Sign out</a>';

function page(string $body): void
{
    echo "<!doctype html><html lang=\"en\"><title>Notes</title><body>$body</body></html>\n";
}

if ($path === '/') {
    page($user === null
        ? '<p><a href="/notes">Sign in to read your notes</a></p>'
        : "<p>Hello $email. <a href=\"/notes\">Your notes</a> · $links</p>");
    exit;
}
if ($path !== '/notes') {
    http_response_code(404);
    exit;
}

// The name is a digest, so no value of a header chooses the path of a file.
$file = __DIR__ . '/notes-' . hash('sha256', $user) . '.json';
$notes = is_file($file) ? json_decode(file_get_contents($file)) : [];

// The gateway has checked that the form comes from an own page, so the form needs no CSRF token.
if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    file_put_contents($file, json_encode([...$notes, $_POST['text']]), LOCK_EX);
    header('Location: /notes', true, 303);
    exit;
}
$items = implode('', array_map(fn ($note) => '<li>' . htmlspecialchars($note) . '</li>', $notes));
$form = '<form method="post"><input name="text" aria-label="New note" required> <button>Add</button></form>';
page("<h1>Notes of $email</h1><ul>$items</ul>$form<p>$links</p>");
