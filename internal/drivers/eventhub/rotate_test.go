package eventhub

import (
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/eventhub"
)

func TestKey_IsReadForEachSession(t *testing.T) {
	t.Parallel()
	hub, files := newHub(t, peer.Settings{}), sinktest.NewRotation(t)
	files.Put("key", []byte(peer.Key+"\n"))
	opened, err := files.Open(Driver(), strings.Replace(urlTo(hub, ""), peer.Key, files.Placeholder("key"), 1), env)
	files.Works("the right key", err)
	s := opened.(*Sink)
	files.Works("a batch", s.Apply(t.Context(), sinktest.NumberedBatch(t, 1, 3)))
	files.Put("key", []byte("c29tZXRoaW5nIGVsc2U=\n"))
	s.drop(s.session) // as if its connections had ended
	files.Waits("another key", s.Apply(t.Context(), sinktest.NumberedBatch(t, 4, 6)), "Event Hubs refuses the credentials", "c29tZXRoaW5n",
		peer.Key)
	files.Put("key", []byte(peer.Key+"\n"))
	files.Works("the right key again", s.Apply(t.Context(), sinktest.NumberedBatch(t, 4, 6)))
	wantOnce(t, hub, 1, 6)
}
