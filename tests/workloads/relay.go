// Answers each request after one call of the downstream service, without a pause: net/http in both roles.
//
// A server for measurements, as relay.py.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
)

func main() {
	downstream := flag.String("downstream", "", "HOST:PORT")
	flag.Parse()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	handler := func(writer http.ResponseWriter, request *http.Request) {
		response, err := client.Get("http://" + *downstream + "/")
		if err != nil {
			http.Error(writer, err.Error(), http.StatusBadGateway)
			return
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		io.WriteString(writer, "hello\n")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("PORT", listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(http.Serve(listener, http.HandlerFunc(handler)))
}
