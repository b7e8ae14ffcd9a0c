// What the smoke test runs in pods: a server that answers, and a client that says whether something does.
//
//	probe serve PORT            answers every connection with a line
//	probe reach HOST:PORT...    connects to all at once; says of each whether it answered in two seconds; fails unless all did
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const limit = 2 * time.Second

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "serve":
		serve(os.Args[2])
	case len(os.Args) > 2 && os.Args[1] == "reach":
		reach(os.Args[2:])
	default:
		fmt.Fprintln(os.Stderr, "probe serve PORT | probe reach HOST:PORT...")
		os.Exit(2)
	}
}

func serve(port string) {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// The first process of a container has no default handlers: without this a pod takes its whole grace to end.
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	go func() {
		<-end
		os.Exit(0)
	}()
	for {
		connection, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Fprintln(connection, "here")
		connection.Close()
	}
}

func reach(addresses []string) {
	answers := make(chan error)
	for _, address := range addresses {
		go func() {
			connection, err := net.DialTimeout("tcp", address, limit)
			if err == nil {
				connection.Close()
				fmt.Println("yes:", address)
			} else {
				fmt.Printf("no: %s: %v\n", address, err)
			}
			answers <- err
		}()
	}
	failed := false
	for range addresses {
		failed = <-answers != nil || failed
	}
	if failed {
		os.Exit(1)
	}
}
