// An HTTP server of Node's standard library: server.js PORT IDLE, the idle timeout in seconds.
const http = require("http");

const server = http.createServer((request, response) => {
  request.resume().on("end", () => response.end("ok\n"));
});
server.keepAliveTimeout = Number(process.argv[3]) * 1000;
server.listen(Number(process.argv[2]), "127.0.0.1");
