// An HTTP server of Go's standard library: server PORT IDLE, the idle timeout in seconds.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

func main() {
	idle, err := strconv.ParseFloat(os.Args[2], 64)
	if err != nil {
		panic(err)
	}
	server := http.Server{
		Addr:        "127.0.0.1:" + os.Args[1],
		IdleTimeout: time.Duration(idle * float64(time.Second)),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			fmt.Fprintln(w, "ok")
		}),
	}
	panic(server.ListenAndServe())
}
