package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/gorilla/websocket"
)

var versions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// A client over TLS: prints each message, sends one after the first, and closes after the last.
func follow(url, authority, token, version string) error {
	pem, err := os.ReadFile(authority)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	dialer := websocket.Dialer{EnableCompression: true, TLSClientConfig: &tls.Config{
		RootCAs: roots, MinVersion: versions[version], MaxVersion: versions[version],
	}}
	client, _, err := dialer.Dial(url, http.Header{"Authorization": {"Bearer " + token}})
	if err != nil {
		return err
	}
	defer client.Close()
	for first := true; ; first = false {
		_, text, err := client.ReadMessage()
		var closed *websocket.CloseError
		if errors.As(err, &closed) && closed.Code == websocket.CloseNormalClosure {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Println(string(text))
		var message struct {
			Data any `json:"data"`
		}
		if err := json.Unmarshal(text, &message); err != nil {
			return err
		}
		reply, kind := `{"op":"ping","padding":"`+strings.Repeat("x", 3000)+`"}`, websocket.TextMessage
		if message.Data == "last" {
			reply, kind = string(websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")), websocket.CloseMessage
		}
		if first || message.Data == "last" {
			if err := client.WriteMessage(kind, []byte(reply)); err != nil {
				return err
			}
		}
	}
}
