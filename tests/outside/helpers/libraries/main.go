// Publishes with go-redis or rueidis in their default ways: LIBRARY ADDRESS CHANNEL PAYLOAD…
// Or follows a server over TLS with gorilla/websocket: gorilla URL AUTHORITY TOKEN VERSION
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
)

func main() {
	library, address, channel, payloads := os.Args[1], os.Args[2], os.Args[3], os.Args[4:]
	use := map[string]func(string, string, []string) error{
		"go-redis": goRedis, "rueidis": withRueidis, "gorilla": func(url, authority string, rest []string) error {
			return follow(url, authority, rest[0], rest[1])
		},
	}[library]
	if err := use(address, channel, payloads); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// The first payload alone, the others in one transaction.
func goRedis(address, channel string, payloads []string) error {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: address})
	defer client.Close()
	if err := client.Publish(ctx, channel, payloads[0]).Err(); err != nil {
		return err
	}
	_, err := client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, payload := range payloads[1:] {
			pipe.Publish(ctx, channel, payload)
		}
		return nil
	})
	return err
}

// Its defaults: RESP3 and CLIENT TRACKING.
func withRueidis(address, channel string, payloads []string) error {
	ctx := context.Background()
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{address}})
	if err != nil {
		return err
	}
	defer client.Close()
	for _, payload := range payloads {
		if err := client.Do(ctx, client.B().Publish().Channel(channel).Message(payload).Build()).Error(); err != nil {
			return err
		}
	}
	return nil
}
