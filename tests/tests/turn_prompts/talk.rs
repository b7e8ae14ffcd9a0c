//! A session with a scripted model.
use kernelbox_proto::v1::{StartTurnRequest, SubmitToolResultRequest, ToolCallRequested, turn_event::Kind};
use kernelbox_tests::{Client, Given, ModelServer, Prompt, Reply, Stack, Turned, ask};

pub struct Talk {
    pub model: ModelServer,
    pub stack: Stack,
    pub client: Client,
    pub session: String,
}

impl Talk {
    pub async fn with(replies: impl IntoIterator<Item = Reply>) -> Self {
        let model = ModelServer::start(replies).await;
        let stack = Stack::with_model(&model).start().await;
        let mut client = stack.client().await;
        let session = client.session().await;
        Self { model, stack, client, session }
    }

    /// One question, and what came of it; all that the model had to say was needed.
    pub async fn ask(&mut self, question: &str) -> (Turned, Given) {
        let turned = self.client.turn(&self.session, question).await;
        self.given(turned).await
    }

    pub async fn ask_about(&mut self, question: &str, path: &str, content: &[u8]) -> (Turned, Given) {
        self.client.upload(&self.session, path, content).await.unwrap();
        let request = StartTurnRequest { attachments: vec![path.into()], ..ask(&self.session, question) };
        let turned = self.client.try_turn(request).await.unwrap();
        self.given(turned).await
    }

    pub async fn ask_prompt(&mut self, prompt: &Prompt) -> (Turned, Given) {
        let turned = prompt.ask(&mut self.client, &self.session).await;
        let (turned, given) = self.given(turned).await;
        (prompt.check)(&given).unwrap();
        (turned, given)
    }

    /// Asks, and answers the calls of the client's own tools.
    pub async fn ask_with_tools(
        &mut self,
        question: &str,
        answer: impl Fn(&ToolCallRequested) -> String,
    ) -> (Turned, Given) {
        let request = ask(&self.session, question);
        let mut stream = self.client.turns.start_turn(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(event) = stream.message().await.unwrap() {
            if let Some(Kind::ToolCallRequested(call)) = &event.kind {
                let request = SubmitToolResultRequest {
                    name: event.turn.clone(),
                    tool_call: call.tool_call.clone(),
                    content: answer(call),
                    failed: false,
                };
                self.client.turns.submit_tool_result(request).await.unwrap();
            }
            events.push(event);
        }
        self.given(Turned { events }).await
    }

    async fn given(&mut self, turned: Turned) -> (Turned, Given) {
        let given = Given::of(&turned, &mut self.client, &self.session).await.unwrap();
        assert_eq!(self.model.queued(), 0, "the turn ended early: {:#?}", turned.events);
        (turned, given)
    }
}
