// Hands HTTP/1 requests on by HTTP/2: to a server that knows that beforehand, or with --tls by HTTPS, whose certificate nobody
// looks at. Who goes away before the answer has its stream given up.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
)

func main() {
	to := flag.String("to", "", "HOST:PORT")
	speaksTLS := flag.Bool("tls", false, "HTTPS")
	flag.Parse()
	scheme := "http"
	if *speaksTLS {
		scheme = "https"
	}
	var protocols http.Protocols
	protocols.SetHTTP2(*speaksTLS)
	protocols.SetUnencryptedHTTP2(!*speaksTLS)
	relay := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: scheme, Host: *to})
	relay.Transport = &http.Transport{Protocols: &protocols, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	relay.ErrorLog = log.New(io.Discard, "", 0)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("PORT", listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(http.Serve(listener, relay))
}
