package kafka

import (
	"errors"
	"fmt"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// maxTopic is the maximum length, in bytes, that Kafka allows for a topic's name.
const maxTopic = 249

// parseTopic reads a topic's name, or a template that yields the topic's name for each change.
func parseTopic(text string) (*encode.Route, error) {
	switch {
	case text == "":
		return nil, errors.New("the kafka url names no topic; it should end like /topic")
	case strings.Contains(text, "/"):
		return nil, errors.New("the topic has a slash in its name, which Kafka does not allow; use . or - instead")
	case !encode.IsTemplate(text) && legal(text) != text:
		return nil, fmt.Errorf("a topic's name consists of letters, digits and . _ -, %d at most", maxTopic)
	}
	return encode.ParseRoute("topic", text, legal)
}

// legal turns name into a name that Kafka accepts. It replaces each invalid byte with
// _. A name that is too long is cut, and then ends in a hash.
func legal(name string) string {
	b := []byte(name)
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '.', c == '_', c == '-':
		default:
			b[i] = '_'
		}
	}
	switch text := string(b); text {
	case "", ".", "..":
		return "_" + text[min(1, len(text)):]
	default:
		return encode.CutName(text, name, maxTopic)
	}
}
