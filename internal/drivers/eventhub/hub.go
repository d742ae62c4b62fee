package eventhub

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// maxHub is the maximum length, in characters, that Azure allows for a hub's name.
const maxHub = 256

// parseHub reads a hub's name, or a template that yields the hub's name for each change.
func parseHub(text string) (*encode.Route, error) {
	switch {
	case text == "":
		return nil, errors.New("the eventhub url names no hub; it should end like ;EntityPath=hub")
	case strings.Contains(text, "/"):
		return nil, errors.New("the hub has a slash in its name, which Event Hubs does not allow; use . or - instead")
	case encode.IsTemplate(text):
	case strings.Contains(text, "="): // text may contain a secret; do not quote it
		return nil, errors.New("the hub's name has a = in it; write ; between the parts of a connection string")
	case legal(text) != text:
		return nil, fmt.Errorf("a hub's name consists of letters, digits and . _ -, "+
			"begins and ends with a letter or digit, and has at most %d characters", maxHub)
	}
	return encode.ParseRoute("hub", text, legal)
}

// destinationOf returns the identity of the destination: the namespace and the hub, without
// credentials.
func destinationOf(target *url.URL) string {
	c, err := parseConnection(target.Host + target.Path)
	if err != nil {
		return sink.JoinIdentity("eventhub", strings.ToLower(target.Host), "", nil)
	}
	hub := c.hub
	if hub == "" {
		hub = target.Query().Get("hub")
	}
	return sink.JoinIdentity("eventhub", sink.HostsIdentity(c.host, "5671"), hub, nil)
}

// legal turns name into a name that Azure accepts. It replaces each invalid byte with
// _. If the first or last character is not a letter or digit, it adds a 0 before the first or after
// the last character. A name that is too long is cut, and then ends in a hash.
func legal(name string) string {
	b := []byte(name)
	for i, c := range b {
		if !alphanumeric(c) && c != '.' && c != '_' && c != '-' {
			b[i] = '_'
		}
	}
	text := string(b)
	if text == "" || !alphanumeric(text[0]) {
		text = "0" + text
	}
	if !alphanumeric(text[len(text)-1]) {
		text += "0"
	}
	return encode.CutName(text, name, maxHub)
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
