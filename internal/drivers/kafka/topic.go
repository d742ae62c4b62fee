package kafka

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/encode"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// maxTopic is the length of a topic's name, in bytes, that Kafka allows.
const maxTopic = 249

// topicName names the topic of an event.
type topicName struct {
	fixed    string       // "" where there is a template
	template *encode.Path // nil where the name is fixed
	byTable  bool         // the template depends on the table alone
}

// parseTopic reads a topic's name, or a template of names.
func parseTopic(text string) (*topicName, error) {
	switch {
	case text == "":
		return nil, errors.New("the kafka url names no topic; it should end like /topic")
	case strings.Contains(text, "/"):
		return nil, errors.New("the topic has a slash in its name, which Kafka does not allow; use . or - instead")
	case !strings.Contains(text, "{{"):
		if legal(text) != text {
			return nil, fmt.Errorf("a topic's name can not be %.60q: it has letters, digits and . _ - only, %d at most", text, maxTopic)
		}
		return &topicName{fixed: text}, nil
	}
	template, err := encode.ParsePath(text)
	if err != nil {
		return nil, errors.New("topic" + strings.TrimPrefix(err.Error(), "path"))
	}
	return &topicName{template: template, byTable: !strings.Contains(strings.ReplaceAll(text, "{{.table}}", ""), "{{")}, nil
}

// of returns the topic of an event; known keeps the names of tables' topics. An
// error is about this event alone.
func (n *topicName) of(e *cdc.Event, known map[string]string) (string, error) {
	if n.template == nil {
		return n.fixed, nil
	}
	if name, ok := known[e.Table]; ok && n.byTable {
		return name, nil
	}
	name, err := n.template.Render(e)
	if err != nil {
		return "", fault.Mark(fault.Poison, errors.New("the topic's template can not be rendered for this change"))
	}
	name = legal(name)
	known[e.Table] = name
	return name, nil
}

// legal returns the name with each byte that Kafka refuses replaced by _, and
// what is too long cut, with a hash at its end.
func legal(name string) string {
	b := []byte(name)
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '.', c == '_', c == '-':
		default:
			b[i] = '_'
		}
	}
	switch text := string(b); {
	case text == "", text == ".", text == "..":
		return "_" + text[min(1, len(text)):]
	case len(text) > maxTopic:
		sum := sha256.Sum256([]byte(name))
		return text[:maxTopic-33] + "-" + hex.EncodeToString(sum[:16])
	default:
		return text
	}
}
