package s3

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testpeers"
)

func TestKeys_AreReadAgainWhileTheyAreRefused(t *testing.T) {
	server, f := testpeers.S3(t), newFront(t)
	path := newPrefix(server.Bucket(t))
	files := sinktest.NewRotation(t)
	files.Put("secret", []byte(testpeers.S3Secret+"\n"))
	raw := "s3://" + f.addr() + "/" + path + "?access-key-id=" + url.QueryEscape(testpeers.S3Key) + "&secret-access-key=" + files.Placeholder("secret")
	s, err := files.Open(Driver(), raw, sink.Env{})
	files.Works("the right key", err)
	files.Works("a batch", s.Apply(t.Context(), sinktest.Batch(order(t, 1))))
	f.set(func(w http.ResponseWriter, r *http.Request) bool { return refuse(w, r, 403, "InvalidAccessKeyId") })
	files.Waits("a key that was removed", s.Apply(t.Context(), sinktest.Batch(order(t, 2))), "InvalidAccessKeyId", "SECRET", testpeers.S3Secret)
	f.mend()
	files.Put("secret", []byte("WRONG\n"))
	files.Waits("another secret", s.Apply(t.Context(), sinktest.Batch(order(t, 2))), "SignatureDoesNotMatch", "WRONG", testpeers.S3Secret)
	files.Put("secret", []byte(testpeers.S3Secret+"\n"))
	files.Works("the right key again", s.Apply(t.Context(), sinktest.Batch(order(t, 2))))
	if got := stored(t, at(server.Addr(), path, "")); len(got) != 2 {
		t.Errorf("there are %v", got)
	}
}
