package s3

import (
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testpeers"
)

func TestKeys_AreReadForEachBatch(t *testing.T) {
	server := testpeers.S3(t)
	path := newPrefix(server.Bucket(t))
	files := sinktest.NewRotation(t)
	put := func(id, secret string) {
		files.Put("id", []byte(id+"\n"))
		files.Put("secret", []byte(secret+"\n"))
	}
	put(testpeers.S3Key, testpeers.S3Secret)
	s, err := files.Open(Driver(), "s3://"+server.Addr()+"/"+path+"?access-key-id="+files.Placeholder("id")+"&secret-access-key="+files.Placeholder("secret"), sink.Env{})
	files.Works("the right key", err)
	files.Works("a batch", s.Apply(t.Context(), sinktest.Batch(order(t, 1))))
	put("AKIAANOTHER", testpeers.S3Secret)
	files.Waits("another key", s.Apply(t.Context(), sinktest.Batch(order(t, 2))), "InvalidAccessKeyId", testpeers.S3Secret)
	put(testpeers.S3Key, "WRONG")
	files.Waits("another secret", s.Apply(t.Context(), sinktest.Batch(order(t, 2))), "SignatureDoesNotMatch", "WRONG", testpeers.S3Secret)
	put(testpeers.S3Key, testpeers.S3Secret)
	files.Works("the right key again", s.Apply(t.Context(), sinktest.Batch(order(t, 2))))
	if got := stored(t, at(server.Addr(), path, "")); len(got) != 2 {
		t.Errorf("there are %v", got)
	}
}
