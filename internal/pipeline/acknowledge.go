package pipeline

import "context"

// acknowledge is the last stage. It acknowledges messages whose changes are durable. If the applier
// fails, acknowledge continues until it has acknowledged the batches before the failure.
func (p *Pipeline) acknowledge(hard context.Context) error {
	for d := range p.applied {
		for more := true; more; { // one acknowledgement for all batches that are ready
			select {
			case next, ok := <-p.applied:
				if more = ok; ok {
					d = durableBatch{d.upTo.Advance(next.upTo), d.messages + next.messages, d.memory + next.memory}
				}
			default:
				more = false
			}
		}
		err := p.retry(hard, dependencySource, func() error { return p.c.Source.Acknowledge(hard, d.upTo) })
		if err != nil {
			return err
		}
		p.acknowledged.Store(d.upTo.Sequence)
		p.inFlight.release(d.messages, d.memory)
		p.status.acknowledged(d)
	}
	return nil
}
