// A goroutine-per-connection HTTP service: answers /work/ID after up to three calls of /work/ID.N downstream, one after
// the other or at once. Meanwhile a goroutine calls the same downstream, through the same transport, as /work/bg-PID-N.
//
// --model plain     the goroutine that serves calls, or one per call
// --model workers   twelve goroutines take calls from a channel; who serves waits for the answer of its own
// --model channels  the same through two stages of goroutines with buffered channels between them
// --model hired     as workers, but each of them is started by a request that finds all of them busy, and stays
// --model forget    a goroutine per call, for which nobody waits
// --model after     the goroutine that serves, once it has sent its answer
//
// With --tls it serves and calls by HTTPS, with a certificate of its own making that nobody looks at. With --http2 it serves,
// calls, or does both by HTTP/2, and nothing else there; in clear both ends know that beforehand. Its background begins with
// its first request then.
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"math/rand"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	downstream   = flag.String("downstream", "", "HOST:PORT")
	fixedCalls   = flag.Int("calls", -1, "always this many calls")
	delayMs      = flag.Int("delay-ms", 0, "wait up to this long before answering")
	backgroundMs = flag.Int("background-ms", 15, "0: no background calls")
	ledgerPath   = flag.String("ledger", "", "file to write the truth to: a call's id, its request's or -, its status")
	model        = flag.String("model", "plain", "plain, workers, channels, hired, forget or after")
	speaksTLS    = flag.Bool("tls", false, "HTTPS in both roles")
	http2        = flag.String("http2", "", "serve, call or both")
	names        = flag.String("names", "numbered", "or random: ids that tell nothing")
	ledger       *os.File

	sizes  = []int{0, 10, 1000, 20_000, 100_000}
	blind  = &tls.Config{InsecureSkipVerify: true}
	pooled = &http.Transport{MaxIdleConnsPerHost: 64, TLSClientConfig: blind}
	fresh  = &http.Transport{DisableKeepAlives: true, TLSClientConfig: blind}
	begun  sync.Once
)

// The id of a call; an empty cause is background work.
func name(cause, number string, status int) string {
	id := cause + "." + number
	if cause == "" {
		cause, id = "-", fmt.Sprintf("bg-%d-%s", os.Getpid(), number)
	}
	if *names == "random" {
		id = fmt.Sprintf("%016x", rand.Uint64())
	}
	if ledger != nil {
		fmt.Fprintf(ledger, "%s %s %d\n", id, cause, status)
	}
	return id
}

// The call, before which now and then one fails that has to be tried again.
func call(cause string, number int) {
	if ledger != nil && rand.Float64() < 0.03 {
		send(name(cause, fmt.Sprintf("%d-failed", number), 503), 503)
	}
	send(name(cause, strconv.Itoa(number), 200), 200)
}

func send(id string, wanted int) {
	client := http.Client{Transport: fresh}
	if rand.Float64() < 0.6 {
		client.Transport = pooled
	}
	scheme := "http"
	if *speaksTLS {
		scheme = "https"
	}
	url := fmt.Sprintf("%s://%s/work/%s?k=v", scheme, *downstream, id)
	if wanted != 200 {
		url += "&fail=yes"
	}
	var response *http.Response
	var err error
	if rand.Float64() < 0.25 {
		body := bytes.Repeat([]byte("b"), []int{1, 500, 30_000}[rand.Intn(3)])
		response, err = client.Post(url, "text/plain", bytes.NewReader(body))
	} else {
		response, err = client.Get(url)
	}
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != wanted {
		log.Fatal(id, " ", response.StatusCode, " ", err)
	}
}

func delayedCall(cause string, number int) {
	time.Sleep(time.Duration(rand.Intn(3000)) * time.Microsecond)
	switch *model {
	case "plain", "after":
		call(cause, number)
	case "forget":
		go func() {
			time.Sleep(time.Duration(rand.Intn(3000)) * time.Microsecond)
			call(cause, number)
		}()
	case "hired":
		job := job{cause, number, make(chan struct{})}
		select {
		case idle <- job:
		default:
			go hired(job)
		}
		<-job.done
	default:
		job := job{cause, number, make(chan struct{})}
		jobs <- job
		<-job.done
	}
}

type job struct {
	cause  string
	number int
	done   chan struct{}
}

var (
	jobs   = make(chan job, 4)
	staged = make(chan job, 4)
	idle   = make(chan job)
)

// Does this job and those that come later.
func hired(job job) {
	for {
		call(job.cause, job.number)
		close(job.done)
		job = <-idle
	}
}

// Starts the goroutines of the model.
func startWorkers() {
	const workers = 12
	from := jobs
	if *model == "channels" {
		from = staged
		for range 3 {
			go func() {
				for job := range jobs {
					staged <- job
				}
			}()
		}
	}
	for range workers {
		go func() {
			for job := range from {
				call(job.cause, job.number)
				close(job.done)
			}
		}()
	}
}

func serve(writer http.ResponseWriter, request *http.Request) {
	io.Copy(io.Discard, request.Body)
	id := strings.TrimPrefix(request.URL.Path, "/work/")
	if request.URL.Query().Get("fail") != "" {
		http.Error(writer, "not this time", http.StatusServiceUnavailable)
		return
	}
	if *downstream != "" && *backgroundMs > 0 {
		begun.Do(func() { go background() })
	}
	time.Sleep(time.Duration(rand.Float64() * float64(*delayMs) * float64(time.Millisecond)))
	calls := 0
	if *downstream != "" {
		calls = *fixedCalls
		if calls < 0 {
			calls = rand.Intn(4)
		}
		if *model == "after" {
			answer(writer, calls)
			writer.(http.Flusher).Flush()
		}
		if rand.Float64() < 0.5 {
			var group sync.WaitGroup
			for number := range calls {
				group.Go(func() { delayedCall(id, number) })
			}
			group.Wait()
		} else {
			for number := range calls {
				delayedCall(id, number)
			}
		}
	}
	if *model != "after" {
		answer(writer, calls)
	}
}

func answer(writer http.ResponseWriter, calls int) {
	body := append([]byte(fmt.Sprintf("calls=%d\n", calls)), bytes.Repeat([]byte("x"), sizes[rand.Intn(len(sizes))])...)
	if rand.Float64() < 0.5 {
		writer.Header().Set("Content-Length", strconv.Itoa(len(body)))
		writer.Write(body)
		return
	}
	for len(body) > 0 {
		piece := body[:min(len(body), 7000)]
		writer.Write(piece)
		writer.(http.Flusher).Flush()
		body = body[len(piece):]
	}
}

func background() {
	for number := 0; ; number++ {
		time.Sleep(time.Duration(rand.Float64()*2*float64(*backgroundMs)*1e6) * time.Nanosecond)
		call("", number)
	}
}

func main() {
	flag.Parse()
	if *ledgerPath != "" {
		var err error
		if ledger, err = os.OpenFile(*ledgerPath, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
			log.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	if *model == "workers" || *model == "channels" {
		startWorkers()
	}
	fmt.Println("PORT", listener.Addr().(*net.TCPAddr).Port)
	if *http2 == "call" || *http2 == "both" {
		pooled.Protocols, fresh.Protocols = protocols(true), protocols(true)
	}
	if *http2 == "" && *downstream != "" && *backgroundMs > 0 {
		begun.Do(func() { go background() })
	}
	server := http.Server{
		Handler:   http.HandlerFunc(serve),
		Protocols: protocols(*http2 == "serve" || *http2 == "both"),
	}
	if !*speaksTLS {
		log.Fatal(server.Serve(listener))
	}
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate()}}
	log.Fatal(server.ServeTLS(listener, "", ""))
}

// HTTP/2 and nothing else, or HTTP/1.
func protocols(two bool) *http.Protocols {
	var protocols http.Protocols
	protocols.SetHTTP1(!two)
	protocols.SetHTTP2(two && *speaksTLS)
	protocols.SetUnencryptedHTTP2(two && !*speaksTLS)
	return &protocols
}

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	made, err := x509.CreateCertificate(cryptorand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{made}, PrivateKey: key}
}
